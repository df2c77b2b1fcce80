"""A pruned network as an ordinary Hugging Face folder, and back.

What this file does not do: decide which sizes a configuration can say (`hf/fields.py`), the code for those that it cannot
(`hf/ragged.py`), padding (`hf/pad.py`).
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import extras
from ..core.errors import CheckpointError, ResproutError, nearest
from ..core.hold import unwrap
from ..core.masks import Masks, prunable
from ..core.store import read_safetensors
from ..graph.alike import applied, difference, outputs
from ..graph.shape import MARK, Shape, reshape
from .hf import ragged as code
from .hf.blocks import renumbered
from .hf.fields import as_plain
from .hf.folder import may_become, new_folder
from .hf.net import Net, build, bytes_of, class_named, counted, gather, once
from .hf.pad import padded

SIDE = "resprout.json"  # what only we read: checksums, and which indices of the dense network are left
CLOSE, COARSE = 1e-5, 0.03  # of the largest output, in float32 and in half precision
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "spiece.*",
    "chat_template.*", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """What `save_pretrained` wrote.

    Attributes:
        folder: the folder.
        parameters_before: of the dense network.
        parameters: of the one in the folder, zeros included.
        bytes: all files of the folder.
        sparsity: the fraction of the prunable weights in the folder that is zero.
        custom_code: whether the folder needs `trust_remote_code=True`.
        why: why it needs that, or would without padding; "" if it never did.
        difference: between the outputs of the folder and of the model, as a part of the largest.
        padding: bytes of the values that padding has added.
    """

    folder: Path
    parameters_before: int
    parameters: int
    bytes: int
    sparsity: float
    custom_code: bool
    why: str
    difference: float
    padding: int = 0

    def __str__(self) -> str:
        kind = "needs trust_remote_code=True" if self.custom_code else "a plain folder"
        lines = [
            f"wrote {self.folder} ({self.bytes:,} bytes): {kind}" + (f"; {self.why}" if self.why else ""),
            f"parameters {self.parameters_before:,} -> {self.parameters:,}, sparsity {100 * self.sparsity:.1f} %",
        ]
        if self.padding:
            lines.append(f"{self.padding:,} bytes of padding")
        return "\n".join(lines)


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    masks: Masks | None = None,
    example: Any = None,
    tokenizer: Any = None,
    ragged: str = "code",
    dtype: str | torch.dtype | None = None,
    max_shard: str = "5GB",
    overwrite: bool = False,
) -> Saved:
    """Write a masked or shrunk model of transformers as a folder that `from_pretrained` and `generate` take; atomic.

    Where a configuration can say the sizes (all layers alike, whole blocks gone), the folder is a plain one. Else it brings a
    short file of code and is loaded with `trust_remote_code=True`, or is padded with zeros. It is loaded and compared with the
    model on the example before it gets its name, which takes the memory of the model once more.

    Args:
        model: a model of a class of transformers, as it is or from `shrink`; it is left as it is.
        folder: absent or empty; the folder appears whole or not at all.
        masks: which weights are alive; the others are written as zeros. Default: values as they are.
        example: what the model can be called with; default the model's own dummy inputs, which text models have.
        tokenizer: its files go into the folder too: a folder, or an object with `save_pretrained`.
        ragged: "code" or "pad", for sizes that no configuration can say.
        dtype: of the values, as in "bfloat16"; default that of the model.
        max_shard: the largest file of weights, as in "5GB".
        overwrite: replace a folder that is not empty.

    Raises:
        ResproutError: a model that is not of transformers, NaN or infinite weights, a folder that is not empty, a full disk, or a
            network that cannot be written so: the folder would compute something else.

    Example:
        >>> small = rs.shrink(llama, rs.prune(llama, 0.3, granularity="channel", example=x, floor=1), x)  # doctest: +SKIP
        >>> rs.save_pretrained(small, "small", tokenizer="llama-folder")  # doctest: +SKIP
        >>> AutoModelForCausalLM.from_pretrained("small", trust_remote_code=True)  # doctest: +SKIP
    """
    if ragged not in ("code", "pad"):
        raise nearest(str(ragged), ("code", "pad"), "ragged=")
    out = Path(folder).absolute()
    may_become(out, overwrite)
    bare: Any = unwrap(model)
    net = gather(bare, masks, _dtype(dtype))
    inputs = _example(bare, example)
    wished = outputs(bare if masks is None else applied(bare, masks), inputs)
    small, blocks = renumbered(net)
    plain, why = as_plain(small)
    ways = [] if plain is None else [Way("plain", plain, blocks)]
    if plain is None and ragged == "pad":
        ways.append(Way("pad", padded(small, inputs), blocks))
    if (
        ragged == "code" and plain is not small
    ):  # also if the model's code makes something else of a plain configuration
        ways.append(Way("code", small, blocks))
    if ragged == "code" and blocks:
        ways.append(Way("code", net, {}))
    for way in ways:
        with new_folder(out, overwrite) as new:
            parameters, sparsity = _write(new.path, way, net.shape, max_shard)
            _write_rest(new.path, bare, tokenizer)
            gap, odd = _compared(wished, new.path, inputs)
            full = next(bare.parameters()).dtype == way.net.config.dtype == torch.float32
            new.good = gap <= (CLOSE if full else COARSE)
        if new.good:
            added = bytes_of(way.net.state) - bytes_of(small.state) if way.kind == "pad" else 0
            size = sum(f.stat().st_size for f in out.iterdir())
            before = counted(build(net.cls, net.config))
            return Saved(out, before, parameters, size, sparsity, way.kind == "code", why, gap, added)
        why = f"as {'a plain folder' if way.kind == 'plain' else way.kind} {odd}"
    raise ResproutError(f"{type(bare).__name__} cannot be written to {out}: {why}")


@dataclass(frozen=True)
class Way:
    """A way to write a network: "plain", "code" or "pad"; `blocks` are those left, where they have been numbered anew."""

    kind: str
    net: Net
    blocks: Mapping[str, list[int]]


def load_pretrained(folder: str | Path, dense: nn.Module | None = None) -> nn.Module:
    """Read a folder made by `save_pretrained`; no code of the folder is run.

    Args:
        folder: one with code too: the class of transformers is narrowed to the sizes that are stored.
        dense: the dense network that the model was shrunk from; it is left as it is. The result is a copy of it that has lost
            what the model had: `expand` and `regrow` know its indices. Default: the network as the folder describes it.

    Returns:
        the model, in eval mode.

    Raises:
        CheckpointError: a folder that is damaged, cut short, or needs other code than ours; or it belongs to another `dense`.
    """
    path = Path(folder)
    facts = _json(path / "config.json")
    side = _json(path / SIDE) if (path / SIDE).exists() else {}
    _verify(path, side)
    if dense is not None:
        return _narrowed(unwrap(dense), path, side)
    if code.KEY in facts:
        cls, config = code.class_for(path, facts)
    else:
        cls, config = _plain_class(path, facts)
    model = _from_pretrained(cls, config, path)
    if code.KEY in facts:
        model.__class__ = cls.__bases__[0]
        if "shape" in side:
            setattr(model, MARK, Shape.from_text(side["shape"]))
    return model.eval()


def _plain_class(path: Path, facts: Mapping[str, Any]) -> tuple[Any, Any]:
    names = facts.get("architectures")
    try:
        cls = class_named(names[0] if isinstance(names, list) and names else None)
        if facts.get("model_type") != cls.config_class.model_type:
            raise ResproutError(f"{cls.__name__} is no class for the model type {facts.get('model_type')!r}")
        return cls, cls.config_class.from_dict({k: v for k, v in facts.items() if k != "auto_map"})
    except Exception as error:  # each version of transformers has its own for values that it refuses
        raise CheckpointError(f"{path}/config.json cannot be used: {error}") from error


def _from_pretrained(cls: Any, config: Any, path: Path) -> nn.Module:
    try:
        with extras.without_bars():
            model, info = cls.from_pretrained(
                path,
                config=config,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except CheckpointError:
        raise
    except Exception as error:  # transformers wraps what goes wrong in many types
        raise CheckpointError(f"{path} is damaged or of another network: {str(error).strip()}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info[what]:
            raise CheckpointError(
                f"{path} is damaged or of another network: {what.partition('_')[0]} {sorted(map(str, info[what]))[0]}"
            )
    return model


def _narrowed(dense: nn.Module, path: Path, side: Mapping[str, Any]) -> nn.Module:
    """Return a copy of the dense network with the sizes and the values of the folder."""
    if side.get("kind") not in ("plain", "code") or "dense" not in side:
        raise CheckpointError(
            f"{path} does not say which indices of dense= are left: padded, or not written by resprout"
        )
    shape = Shape.from_text(side["dense"])
    try:
        model = reshape(copy.deepcopy(dense), shape)
    except ResproutError as error:
        raise CheckpointError(f"{path} belongs to another model than dense=: {error}") from error
    read = {n: t for file in _weights(path) for n, t in read_safetensors(file)[1].items()}
    try:
        state = {_old_name(n, side["blocks"]): t for n, t in read.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / SIDE} is damaged: which blocks are left cannot be read") from error
    state = _given_biases(model, state)
    own = model.state_dict(keep_vars=True)
    there = {id(own[n]) for n in state if n in own}
    lacks = [n for n, t in own.items() if id(t) not in there and not n.endswith(".constant")]
    odd = [n for n, t in state.items() if n not in own or own[n].shape != t.shape]
    if lacks or odd:
        raise CheckpointError(f"{path} belongs to another model than dense=: {(lacks or odd)[0]!r} differs")
    for norm in (
        shape.norms if side["kind"] == "plain" else ()
    ):  # a plain norm of fewer channels has weights to make that good
        module: Any = model.get_submodule(norm)
        state[f"{norm}.weight"] /= (module.of / len(module.weight)) ** 0.5
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
    return model.eval()


def _given_biases(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give layers without a bias the one they have in `state`, and return `state` without those that are zero."""
    found = dict(state)
    for name in [n for n in state if n.endswith(".bias")]:
        module: Any = dict(model.named_modules()).get(name.removesuffix(".bias"))
        if isinstance(module, nn.Linear) and module.bias is None:
            if bool(found[name].any()):
                module.bias = nn.Parameter(torch.zeros_like(module.weight[:, 0]))
            else:
                del found[name]
    return found


def _old_name(name: str, blocks: Mapping[str, list[int]]) -> str:
    for path, left in blocks.items():
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            return f"{path}.{left[int(number)]}.{rest}"
    return name


# -- checks ------------------------------------------------------------------------------------------------------


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise ResproutError(f"dtype must be a floating-point type such as 'bfloat16', got {dtype!r}")


def _example(model: Any, example: Any) -> Any:
    """Return the example, or the model's dummy inputs, as keyword arguments that ask for no cache."""
    name = model.main_input_name
    if example is None:
        if name != "input_ids":
            raise ResproutError(
                f"{type(model).__name__} has no dummy inputs: give example=, what it can be called with"
            )
        example = model.dummy_inputs
    if isinstance(example, Tensor):
        example = {name: example}
    if isinstance(example, Mapping) and "use_cache" in inspect.signature(model.forward).parameters:
        example = {**example, "use_cache": False}
    return example


def _compared(wished: list[Tensor], path: Path, inputs: Any) -> tuple[float, str]:
    """Return by how much the folder's network differs from what is wished, as a part of the largest number; and that in words."""
    model = load_pretrained(path)
    try:
        gap = difference(wished, outputs(model, inputs))
    except Exception as error:  # of any kind, for it runs the model's own code
        return float("inf"), f"it would fail: {str(error).strip().partition(chr(10))[0]}"
    return gap, f"it would compute something else, by {gap:.1e} of its output"


def _json(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{file} is damaged: it holds no facts")
    return facts


def _weights(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def _verify(path: Path, side: Mapping[str, Any]) -> None:
    """Compare the files of weights with their checksums.

    Raises:
        CheckpointError: one is absent, cut short, or another.
    """
    files = side.get("files", {})
    if not _weights(path) or not isinstance(files, dict) or not isinstance(side.get("blocks", {}), dict):
        raise CheckpointError(
            f"{path} is no whole folder: {'no *.safetensors' if not _weights(path) else SIDE} to be read"
        )
    for name, sha in files.items():
        file = path / Path(name).name
        if not file.exists():
            raise CheckpointError(f"{path} is not whole: {name} is missing")
        if _sha(file) != sha:
            raise CheckpointError(f"{file} is damaged or was changed: its checksum is another than {SIDE} says")


def _sha(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# -- writing -----------------------------------------------------------------------------------------------------


def _write(path: Path, way: Way, dense: Shape, max_shard: str) -> tuple[int, float]:
    """Write configuration, code, values and checksums; return the number of parameters, and how many of the prunable are zero."""
    from huggingface_hub import save_torch_state_dict

    net = way.net
    if way.kind == "code":
        ragged = code.facts(net)
        described = code.described(net, ragged)
        text = re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", json.dumps(described, indent=2))
        (path / "config.json").write_text(text + "\n", encoding="utf-8")
        (path / code.FILE).write_text(code.code(net, ragged), encoding="utf-8")
        made = build(*code.class_for(path, described))
    else:
        net.config.architectures = [net.cls.__name__]
        net.config.save_pretrained(path)
        made = build(net.cls, net.config)
    try:
        save_torch_state_dict(once(net.state), path, max_shard_size=max_shard)
    except ValueError as error:
        raise ResproutError(f"max_shard must be a size such as '5GB', got {max_shard!r}: {error}") from error
    for file in _weights(path):
        file.chmod((path / "config.json").stat().st_mode)  # safetensors lets nobody else read them
    note = {
        "kind": way.kind,
        "dense": dense.to_text(),  # which indices of the dense network are left
        "shape": net.shape.to_text(),  # and of the one that config.json describes
        "blocks": dict(way.blocks),
        "files": {f.name: _sha(f) for f in _weights(path)},
    }
    (path / SIDE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    weights = [net.state[n] for n in prunable(made)]
    zeros = sum(int(torch.count_nonzero(w == 0)) for w in weights)
    own = {n for n, _ in made.named_parameters(remove_duplicate=False)}
    parameters = sum(t.numel() for n, t in once(net.state).items() if n in own)
    return parameters, zeros / max(1, sum(w.numel() for w in weights))


def _write_rest(path: Path, model: Any, tokenizer: Any) -> None:
    """Write how the model generates, and the tokenizer.

    Raises:
        ResproutError: settings that transformers refuses, or a folder without a tokenizer.
    """
    if model.can_generate():
        try:
            model.generation_config.save_pretrained(path)
        except ValueError as error:
            raise ResproutError(f"model.generation_config cannot be saved, mend it first: {error}") from error
    if tokenizer is None:
        return
    if not isinstance(tokenizer, str | Path):
        tokenizer.save_pretrained(path)
        return
    if not has_tokenizer(tokenizer):
        raise ResproutError(f"tokenizer= {tokenizer} is no folder with the files of a tokenizer")
    for file in {f for pattern in TOKENIZER for f in Path(tokenizer).glob(pattern) if f.is_file()}:
        shutil.copyfile(file, path / file.name)


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model is one of transformers; without asking that it be installed."""
    return any(
        c.__name__ == "PreTrainedModel" and c.__module__.startswith("transformers.") for c in type(model).__mro__
    )


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any(any(Path(folder).glob(pattern)) for pattern in TOKENIZER)
