"""A model that stays in the safetensors shards of its folder: a block is read when it is worked on, and written when it is done.

What this file does not do: know what is done to a block (`prune.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core import extras, store
from ..core.errors import CheckpointError, ResproutError
from .walk import Shelf, find_blocks, trim

INDEX = "model.safetensors.index.json"
OTHER = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "*.md")  # what goes along: configuration and tokenizer


class Folder(Shelf):
    """A Hugging Face folder read block by block, and (with `out`) written block by block.

    `model` is the network without weights, which are on PyTorch's meta device; what runs before the blocks has them while it
    is open, and a block while it is taken. Killed and made again with the same `out`, blocks that have been written are read
    from there.

    Args:
        source: folder with config.json and safetensors.
        out: folder to write; None to read only.
        blocks: the path of the list of blocks, if it is not found by itself.
        config: what names the work, so that another is not gone on with; JSON-able.

    Raises:
        CheckpointError: no such folder, no safetensors in it, a damaged shard, or an `out` of other work.
        ResproutError: transformers missing, or a model without blocks.
    """

    def __init__(
        self,
        source: str | Path,
        out: str | Path | None = None,
        *,
        blocks: str | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self.source, self.out = Path(source), None if out is None else Path(out)
        self._files = shards(self.source)
        self.model = _skeleton(self.source)
        self.path = find_blocks(self.model, blocks)
        self._stem = [n for n in self._files if not n.startswith(f"{self.path}.")]
        self._later = {f"{self.path}.", *_head(self.model)}  # what is not needed to get to the blocks
        _buffers(self.model, self.model, self.path)
        if self.out is not None:
            if self.out.resolve() == self.source.resolve():
                raise ResproutError(f"out={self.out} is the folder that is read; name another one")
            self._begin(dict(config or {}))

    # -- a block comes and goes ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read the weights that run before the first block."""
        self._assign(self.model, self._read([n for n in self._stem if not n.startswith(tuple(self._later))]), "")

    def close(self) -> None:
        """Let these weights go."""
        for name, module in self.model.named_modules():
            if not f"{name}.".startswith(f"{self.path}."):
                for n, p in module.named_parameters(recurse=False):
                    setattr(module, n, nn.Parameter(p.to("meta"), requires_grad=p.requires_grad))

    def take(self, name: str, block: nn.Module) -> None:
        """Read the block's weights: what has been written, else the source."""
        if not any(p.is_meta for p in block.parameters()):
            return
        if self.done(name):
            tensors = store.read_safetensors(self._part(name), "; delete it to have it made again")[1]
        else:
            tensors = self._read([n for n in self._files if n.startswith(f"{name}.")])
        self._assign(block, tensors, f"{name}.")
        _buffers(self.model, block)

    def put_back(self, name: str, block: nn.Module, changed: bool) -> None:
        """Write the block if it has changed, and let its weights go."""
        if self.out is not None and changed:
            _write(self._part(name), {f"{name}.{n}": t for n, t in block.state_dict().items()})
        block.to("meta")
        trim()

    def done(self, name: str) -> bool:
        """Whether the block has been written."""
        return self.out is not None and self._part(name).exists()

    def keep(self, name: str, tensor: Tensor) -> Tensor:
        """Write a tensor aside and return it as it lies there, read when it is looked at."""
        if self.out is None:
            return tensor
        _write(self._aside(name), {name: tensor})
        return load_file(self._aside(name))[name]

    def kept(self, name: str) -> Tensor | None:
        """Return what has been written aside."""
        if self.out is None or not self._aside(name).exists():
            return None
        return load_file(self._aside(name))[name]

    def finish(self) -> None:
        """Write the rest, after all blocks: the other weights, the index, configuration and tokenizer. Then it can be loaded.

        Each of the other weights has a shard of its own: no two of them are in memory.
        """
        assert self.out is not None
        blocks: Any = self.model.get_submodule(self.path)
        missing = [f"{self.path}.{i}" for i in range(len(blocks)) if not self.done(f"{self.path}.{i}")]
        if missing:
            raise ResproutError(f"{missing[0]} has not been written yet: every block must be worked on before finish()")
        for name in self._stem:
            _write(self._part(name), self._read([name]))
        where, size = {}, 0
        for name in [*self._stem, *(f"{self.path}.{i}" for i in range(len(blocks)))]:
            part = self._part(name)
            with safe_open(str(part), "pt") as f:
                for n in f.keys():  # noqa: SIM118
                    where[n] = part.name
            size += part.stat().st_size
        for pattern in OTHER:
            for file in self.source.glob(pattern):
                if file.name != INDEX:
                    shutil.copy(file, self.out / file.name)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        store.write(self.out / INDEX, json.dumps(index, indent=1).encode())
        shutil.rmtree(self.out / ".work", ignore_errors=True)

    # -- files -----------------------------------------------------------------------------------------------------

    def _begin(self, config: dict[str, Any]) -> None:
        assert self.out is not None
        text, file = json.dumps(config, sort_keys=True, indent=1).encode(), self.out / ".work" / "config.json"
        if file.exists():
            if file.read_bytes() != text:
                raise CheckpointError(
                    f"{self.out} holds the beginning of other work; delete it, or name another folder"
                )
            for part in self.out.rglob(".*.part"):  # of a process that was killed
                part.unlink()
        elif self.out.exists() and any(self.out.iterdir()):
            raise CheckpointError(f"{self.out} is not empty; delete it, or name another folder")
        else:
            store.write(file, text)

    def _part(self, name: str) -> Path:
        assert self.out is not None
        return self.out / f"model-{name}.safetensors"

    def _aside(self, name: str) -> Path:
        assert self.out is not None
        return self.out / ".work" / f"{name}.safetensors"

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for file in dict.fromkeys(self._files[n] for n in names):
            try:
                with safe_open(str(file), "pt") as f:
                    found |= {n: f.get_tensor(n) for n in names if self._files[n] == file}
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} cannot be read as safetensors ({error}): fetch it again") from error
        return found

    def _assign(self, module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
        own = {n.removeprefix(prefix): t for n, t in tensors.items()}
        _, unexpected = module.load_state_dict(own, strict=False, assign=True)
        tie = getattr(module, "tie_weights", None)
        if tie is not None:
            tie()
        lost = [
            n for n, p in module.named_parameters() if p.is_meta and (prefix or not n.startswith(tuple(self._later)))
        ]
        if lost or unexpected:
            raise CheckpointError(f"{self.source} does not fit its config.json: {(lost or unexpected)[0]!r} is odd")


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard whole or not at all, as `store.write` does, from where the tensors are: no copy of them is made.

    Raises:
        ResproutError: the disk is full or not writable.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # safetensors leaves files that nobody but their owner may read
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, part, {"format": "pt"})
        part.chmod(mode)
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ResproutError(f"cannot write {path}: {error}; free space or change the folder, and call again") from error


def shards(folder: Path) -> dict[str, Path]:
    """Return tensor name -> the safetensors file that holds it.

    Raises:
        CheckpointError: there are none, or one that the index names is not there or damaged.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} is no Hugging Face folder: it has no config.json")
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.exists():
        try:
            found = {n: folder / f for n, f in json.loads(index.read_text())["weight_map"].items()}
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{index} is damaged ({error!r})") from error
        gone = [f for f in dict.fromkeys(found.values()) if not f.exists()]
        if gone:
            raise CheckpointError(f"{gone[0]} is not there, though {index.name} names it: fetch it again")
        return found
    if not single.exists():
        raise CheckpointError(f"{folder} holds no model.safetensors; pickled weights are not read: convert them first")
    try:
        with safe_open(str(single), "pt") as f:
            return dict.fromkeys(f.keys(), single)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{single} cannot be read as safetensors ({error}): fetch it again") from error


def _skeleton(folder: Path) -> nn.Module:
    """The model of a folder, on the meta device."""
    library = extras.transformers()
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return library.AutoModelForCausalLM.from_config(config).eval()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _head(model: nn.Module) -> list[str]:
    """Where the weights of the head are, if they are its own."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    ties = getattr(model, "get_input_embeddings", lambda: None)()
    if head is None or getattr(head, "weight", None) is getattr(ties, "weight", None):
        return []
    return [f"{name}." for name, module in model.named_modules() if module is head]


def _buffers(model: nn.Module, within: nn.Module, but: str | None = None) -> None:
    """Make the buffers that no file holds (those of rotary embeddings) as the model's own code does."""
    for name, module in within.named_modules():
        own = [
            b
            for n, b in module.named_buffers(recurse=False)
            if b is not None and n in module._non_persistent_buffers_set
        ]
        if not any(b.is_meta for b in own) or (but and name.startswith(f"{but}.")):
            continue
        if next(module.parameters(recurse=False), None) is not None:
            raise ResproutError(
                f"{name!r} has weights and unsaved buffers, which cannot be made one by one: load the whole model"
            )
        module.to_empty(device="cpu", recurse=False)
        with torch.no_grad(), contextlib.suppress(AttributeError):
            model._init_weights(module)  # pyright: ignore[reportCallIssue]
