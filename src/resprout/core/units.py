"""Groups of coupled channels: which index of which dimension of which parameter lives or dies together, as plain data.

`graph/` finds them in a model; `granularity.py` chooses among them. One unit of a group is a channel, a head or a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["channel", "head", "layer"]


@dataclass(frozen=True, eq=False)
class Slot:
    """Where a group sits in one dimension of one parameter (or buffer).

    Attributes:
        parameter: its name in the `state_dict`.
        dim: the dimension.
        index: int64 of shape (units, repeat): the original positions along `dim` that belong to each unit.
        reads: whether the parameter is known to read the units here, in a sum of products.
    """

    parameter: str
    dim: int
    index: Tensor
    reads: bool = False

    @property
    def repeat(self) -> int:
        """Positions per unit."""
        return self.index.shape[1]

    @property
    def offset(self) -> int:
        """The first position."""
        return int(self.index.min())


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are coupled in the same way: the channels of one width, the heads of one attention, one layer.

    Attributes:
        name: that of the weight that makes them.
        kind: what one unit is.
        slots: everywhere they sit. A dimension 0 of a weight is where they are made, others are where they are read.
    """

    name: str
    kind: Kind
    slots: tuple[Slot, ...]

    def __len__(self) -> int:
        return len(self.slots[0].index)

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {len(self)} {self.kind}s, {len(self.slots)} slots)"


def living(groups: Sequence[Group], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return group -> bool (units,): a unit is dead if all its weights that `masks` know are."""
    lines: dict[tuple[str, int], Tensor] = {}
    alive = {}
    for group in groups:
        some = torch.zeros(len(group), dtype=torch.bool)
        known = [s for s in group.slots if s.parameter in masks]
        for slot in known:
            at = slot.parameter, slot.dim
            if at not in lines:
                mask = masks[slot.parameter]
                lines[at] = mask.movedim(slot.dim, 0).flatten(1).any(1).cpu()
            some |= lines[at][slot.index].any(1)
        alive[group.name] = some if known else torch.ones_like(some)
    return alive


def residual(groups: Sequence[Group]) -> set[str]:
    """Return the parameters of whole layers, past which what they add to is passed on."""
    return {slot.parameter for group in groups if group.kind == "layer" for slot in group.slots}


def spread(
    groups: Sequence[Group], alive: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Return name -> bool of each shape: False where a unit that `alive` (group -> bool (units,)) lacks has a slot."""
    masks = {n: torch.ones(tuple(shape), dtype=torch.bool) for n, shape in shapes.items()}
    for group in groups:
        dead = ~alive[group.name].cpu()
        for slot in group.slots:
            if slot.parameter in masks and bool(dead.any()):
                masks[slot.parameter].index_fill_(slot.dim, slot.index[dead].flatten(), False)
    return masks


@torch.no_grad()
def revived(
    model: nn.Module,
    groups: Sequence[Group],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
) -> None:
    """Give units that have come back their biases, norms and statistics, which are in no mask, as they are in `source`.

    Args:
        model: changed in place.
        groups: where the units sit.
        before, after: the masks.
        source: the dense network's tensors.
    """
    old, new = living(groups, before), living(groups, after)
    tensors = {n: t for n, t in model.state_dict(keep_vars=True).items() if n not in after and n in source}
    for group in groups:
        born = new[group.name] & ~old[group.name]
        for slot in group.slots if bool(born.any()) else ():
            into = tensors.get(slot.parameter)
            if into is not None:
                at = slot.index[born].flatten().to(into.device)
                into.index_copy_(slot.dim, at, source[slot.parameter].to(into).index_select(slot.dim, at))
