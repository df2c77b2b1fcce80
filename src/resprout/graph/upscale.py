"""Upscale: every layer keeps its own subset of the channels that it shares with others, and reads it as a slice.

Wan, Hao, Patnaik, Xu, Hadad, Güera, Ren, Shan: "UPSCALE: Unconstrained Channel Pruning", ICML 2023, arXiv:2307.08771. The
paper's order is a heaviest path of overlapping subsets, with others nested inside; ours is the exact one for consecutive
subsets (`interval.py`), so that it needs no copy wherever that is possible.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import TraceError
from ..core.masks import Masks
from ..core.roles import mixes, owner, reading, tensors
from ..core.units import Group
from .alike import CLOSE, applied, difference, outputs
from .interval import arrange
from .remove import remove
from .shape import MARK, refit
from .structure import Structure
from .trace import trace

key = "upscale"
fidelity = "identity-checked"
SLICEABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Slice(nn.Module):
    """The inputs `start` to `stop` of dimension `dim`, as a view."""

    def __init__(self, dim: int, start: int, stop: int):
        super().__init__()
        self.dim, self.start, self.stop = dim, start, stop

    def forward(self, x: Tensor) -> Tensor:
        """Return the view."""
        return x.narrow(self.dim, self.start, self.stop - self.start)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.start}:{self.stop}, dim={self.dim}"


class Pick(nn.Module):
    """The inputs `index` of dimension `dim`, as a copy."""

    index: Tensor

    def __init__(self, dim: int, index: Tensor):
        super().__init__()
        self.dim = dim
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """Return the copy."""
        return x.index_select(self.dim, self.index)


def upscale(model: nn.Module, masks: Masks, example: Any, *, structure: Structure | None = None) -> nn.Module:
    """Return a copy of `model` in which each layer reads only the inputs that are alive for it in `masks`.

    Channels are put into an order in which the layers' subsets are contiguous where that is possible; those layers read a
    `Slice`, others a `Pick`, and channels that nothing reads leave. It computes what the masked model computes.

    Args:
        model: the dense or masked model; it is left as it is.
        masks: which weights are alive, freely: layers that share channels need not agree.
        example: what the model can be called with.
        structure: what `trace` found, if it is at hand.

    Raises:
        TraceError: the model cannot take the example, or its channels hang together in a way that the trace did not see.
    """
    plain = applied(model, masks)
    structure = trace(plain, example) if structure is None else structure
    wished = outputs(plain, example)
    orders = {g.name: order(plain, g) for g in structure.groups}
    moved = {n: at for n, at in orders.items() if at != sorted(at)}
    if _wrong(_permuted(plain, structure.groups, moved), wished, example):
        # Some group's units are not alike after all: only those that can be moved are.
        groups = [g for g in structure.groups if g.name in moved]
        fine = {g.name for g in groups if not _wrong(_permuted(plain, [g], moved), wished, example)}
        moved = {n: at for n, at in moved.items() if n in fine}
    turned = _permuted(plain, structure.groups, moved)
    small = remove(turned, structure, {g.name: _read(turned, g) for g in structure.groups})
    weights = list(dict.fromkeys(s.parameter for g in structure.groups for s in reading(turned, g)))
    if _wrong(_selected(small, weights), wished, example):
        # Some layer is not called as one: it goes on reading everything.
        weights = [n for n in weights if not _wrong(_selected(small, [n]), wished, example)]
    small = _selected(small, weights)
    if why := _wrong(small, wished, example):
        raise TraceError(f"{type(model).__name__} does not compute the same with slices: {why}; use rs.shrink")
    return small


def _wrong(model: nn.Module, wished: Sequence[Tensor], example: Any) -> str:
    """Say why `model` does not put out what is wished, or nothing."""
    try:
        gap = difference(wished, outputs(model, example))
    except Exception as error:  # of any kind, for it runs the model's own code
        return str(error).strip().partition("\n")[0]
    return "" if gap <= CLOSE else f"it differs by {gap:.1e} of the output"


def selects(model: nn.Module) -> tuple[int, int]:
    """Return how many layers of `model` read a slice, and how many a copy."""
    kinds = [type(m) for m in model.modules()]
    return kinds.count(Slice), kinds.count(Pick)


def order(model: nn.Module, group: Group) -> list[int]:
    """Return the units of `group` in the order that lets most readers read a slice; those that nothing reads are last."""
    used = [frozenset(torch.nonzero(u).flatten().tolist()) for u in _used(model, group)]
    some = frozenset().union(*used)
    inner = sorted(some)
    place = {unit: i for i, unit in enumerate(inner)}
    found = arrange([frozenset(place[i] for i in u) for u in used], len(inner))
    return [inner[i] for i in found] + [i for i in range(len(group)) if i not in some]


def _sliceable(module: nn.Module) -> bool:
    """Whether the layer can stand behind a slice: of a class of its own it may be used otherwise than by a call."""
    return type(module) in SLICEABLE and getattr(module, "groups", 1) == 1


def _used(model: nn.Module, group: Group) -> list[Tensor]:
    """Return for each reader of the group the units that it reads, bool (units,)."""
    found, values = [], tensors(model)
    for slot in reading(model, group):
        columns = values[slot.parameter].detach().movedim(slot.dim, 0).flatten(1).any(1).cpu()
        every = torch.ones(len(group), dtype=torch.bool)
        found.append(columns[slot.index].any(1) if _sliceable(owner(model, slot.parameter)) else every)
    return found


def _read(model: nn.Module, group: Group) -> Tensor:
    """Return which units anything reads, bool (units,); a norm over the channels reads them all, as does nothing known."""
    used = _used(model, group)
    if not used or mixes(model, group):
        return torch.ones(len(group), dtype=torch.bool)
    some = torch.stack(used).any(0)
    return some if bool(some.any()) else some.index_fill(0, torch.tensor([0]), True)


def _permuted(model: nn.Module, groups: Sequence[Group], orders: Mapping[str, list[int]]) -> nn.Module:
    """Return a copy with the units of the groups in the given orders, in every slot."""
    twin = copy.deepcopy(model)
    values = tensors(twin)
    with torch.no_grad():
        for group in groups:
            if group.name not in orders:
                continue
            for slot in group.slots:
                tensor = values[slot.parameter]
                to, at = slot.index.flatten(), slot.index[orders[group.name]].flatten()
                tensor.index_copy_(slot.dim, to.to(tensor.device), tensor.index_select(slot.dim, at.to(tensor.device)))
    return twin


def _selected(model: nn.Module, weights: Sequence[str]) -> nn.Module:
    """Return a copy in which each layer reads only the columns of its weight that are not zero."""
    twin = copy.deepcopy(model)
    if hasattr(twin, MARK):
        delattr(twin, MARK)  # it is no longer a part of the dense network in its order
    for name in weights:
        path, layer = name.rpartition(".")[0], owner(twin, name)
        if not _sliceable(layer):
            continue
        weight = twin.get_parameter(name).detach()
        at = torch.nonzero(weight.transpose(0, 1).flatten(1).any(1)).flatten()
        if len(at) in (0, weight.shape[1]):
            continue
        start, stop = int(at[0]), int(at[-1]) + 1
        dim = 1 - weight.dim() if weight.dim() > 2 else -1
        picked = Slice(dim, start, stop) if stop - start == len(at) else Pick(dim, at)
        layer.register_parameter("weight", nn.Parameter(weight.index_select(1, at)))
        refit(layer)
        parent, _, leaf = path.rpartition(".")
        setattr(twin.get_submodule(parent), leaf, nn.Sequential(picked, layer))
    return twin
