"""Which indices of a dense network are still present in a smaller one, as data: enough to make it again from the dense one.

What this file does not do: decide what leaves (`remove.py`).
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError
from .norms import counting, counts
from .skip import stand_in

LARGEST = 1 << 26  # bytes of a shape; more is a hostile file
MARK = "_resprout_shape"  # the attribute of a smaller module that holds its shape


@dataclass(frozen=True)
class Shape:
    """How a smaller network differs from its dense one.

    Attributes:
        kept: parameter or buffer -> dimension (as text) -> the original indices that are present, ascending.
        attributes: "module.attribute" -> a number in the model's own code that has become smaller.
        norms: modules whose norm goes on counting the channels that have left.
        skipped: modules that have left altogether -> what stands in their place (see `skip.py`).
    """

    kept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def onto(self, before: Shape) -> Shape:
        """Return this shape of a model that had the shape `before` already, in terms of the dense network."""
        kept = {n: dict(at) for n, at in before.kept.items() if not any(n.startswith(f"{p}.") for p in self.skipped)}
        for name, at in self.kept.items():
            old = kept.setdefault(name, {})
            old |= {dim: [old[dim][i] for i in here] if dim in old else here for dim, here in at.items()}
        norms = sorted({*before.norms, *self.norms})
        return Shape(kept, before.attributes | self.attributes, norms, before.skipped | self.skipped)

    def to_text(self) -> str:
        """As text: JSON, deflated (coupled dimensions keep the same indices), in base 64."""
        facts = json.dumps(dataclasses.asdict(self), separators=(",", ":"))
        return base64.b64encode(zlib.compress(facts.encode(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Shape:
        """Read what `to_text` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            unpack = zlib.decompressobj()
            facts = json.loads(unpack.decompress(base64.b64decode(text, validate=True), LARGEST))
            kept = {
                str(n): {str(int(d)): [_whole(i) for i in at] for d, at in v.items()} for n, v in facts["kept"].items()
            }
            attributes = {str(n): _whole(v) for n, v in facts["attributes"].items()}
            return cls(
                kept,
                attributes,
                [str(n) for n in facts["norms"]],
                {str(n): str(k) for n, k in facts["skipped"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
            raise CheckpointError(f"the file is damaged: its shape cannot be read ({error!r})") from error


def shape_of(model: nn.Module) -> Shape | None:
    """Return how `model` differs from its dense network, if it has been shrunk."""
    return getattr(model, MARK, None)


def reshape(model: nn.Module, shape: Shape) -> nn.Module:
    """Make the dense `model` smaller, in place, and return it. Buffers and parameters keep the values at the kept indices.

    Raises:
        ResproutError: the shape belongs to another model.
    """
    for path, kind in shape.skipped.items():
        place(model, path, stand_in(_module(model, path), kind))
    for path in shape.norms:
        weight = f"{path}.weight"
        module = _module(model, path)
        if not (counts(module, "layer") or counts(module, "rms")) or weight not in shape.kept:
            raise ResproutError(f"{path!r} is no norm that counts channels; the shape belongs to another model")
        place(model, path, counting(module, torch.tensor(shape.kept[weight]["0"])))
    done = {f"{path}.{n}" for path in shape.norms for n in ("weight", "bias")}
    owners: dict[str, nn.Module] = {}
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    made: dict[int, Any] = {}
    by_id = {id(tensors[n]): at for n, at in shape.kept.items() if n in tensors and n not in done}
    missing = [n for n in shape.kept if n not in tensors and not any(n.startswith(f"{p}.") for p in shape.skipped)]
    if missing:
        raise ResproutError(f"the shape names {missing[0]!r}, which {type(model).__name__} does not have")
    for name, tensor in tensors.items():
        if id(tensor) not in by_id:
            continue
        if id(tensor) not in made:
            made[id(tensor)] = _cut(name, tensor, by_id[id(tensor)])
        path, _, leaf = name.rpartition(".")
        owner = _module(model, path)
        if isinstance(tensor, nn.Parameter):
            owner._parameters[leaf] = made[id(tensor)]
        else:
            owner._buffers[leaf] = made[id(tensor)]
        owners[path] = owner
    for owner in owners.values():
        refit(owner)
    for name, value in shape.attributes.items():
        path, _, leaf = name.rpartition(".")
        owner = _module(model, path)
        old = getattr(owner, leaf, None)
        if not isinstance(old, int) or isinstance(old, bool) or not 0 < value <= old:
            raise ResproutError(f"{name!r} is {old!r} and cannot become {value}; the shape belongs to another model")
        setattr(owner, leaf, value)
    setattr(model, MARK, shape)
    return model


def _cut(name: str, tensor: Tensor, kept: Mapping[str, list[int]]) -> Tensor:
    small = tensor.detach()
    for dim, at in kept.items():
        d = int(dim)
        if d >= tensor.dim() or not at or min(at) < 0 or max(at) >= tensor.shape[d] or len(set(at)) != len(at):
            raise ResproutError(
                f"{name!r} of shape {tuple(tensor.shape)} has no such indices along {dim}; another model"
            )
        small = small.index_select(d, torch.tensor(at, device=tensor.device))
    small = small.clone()  # also where nothing was cut, and contiguous as a new layer's would be
    return nn.Parameter(small, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small


def refit(module: nn.Module) -> None:
    """Make a layer's own numbers those of its weights."""
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups > 1:  # whole groups have left
            module.groups = module.groups * weight.shape[0] // module.out_channels
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(
        module, nn.modules.batchnorm._BatchNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
    ):
        like = weight if weight is not None else module.running_mean
        module.num_features = len(like) if like is not None else module.num_features
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * len(weight) // module.num_channels
        module.num_channels = len(weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2:
        vars(module).update(
            nx=weight.shape[0], nf=weight.shape[1]
        )  # the transposed linear layer of Hugging Face's GPT-2
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ResproutError(f"the shape names module {path!r}, which {type(model).__name__} does not have") from error


def place(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` where the module at `path` is."""
    parent, _, leaf = path.rpartition(".")
    _module(model, path)
    setattr(_module(model, parent), leaf, new)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} is no index")
    return value
