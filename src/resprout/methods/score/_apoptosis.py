"""What the loss changes by, to second order, when weights become zero, and whose part of it that is; not a method."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.probe import Probe
from ._rows import fill, makers, rows

Places = dict[str, Tensor]  # weight -> bool of its shape


@dataclass(frozen=True, eq=False)
class Unit:
    """What leaves together: its rows in the weights that make it, all its places, and the group it is of."""

    made: tuple[tuple[str, Tensor], ...]
    places: Places
    group: str


def attribution(probe: Probe) -> dict[str, Tensor]:
    """Return w * (H w) / 2: each weight's part of w^T H w / 2, the cross terms with all prunable weights included."""
    weights = probe.weights()
    return {n: h * weights[n] / 2 for n, h in probe.hessian_product(weights).items()}


def units(probe: Probe) -> Iterator[Unit]:
    """Yield the units of all groups, with all their slots in prunable weights; a row that no group makes is one by itself."""
    weights, made, taken = probe.weights(), defaultdict(list), defaultdict(set)
    for group, slot in makers(probe):
        made[group.name].append(slot)
        taken[slot.parameter] |= set(slot.index.flatten().tolist())
    for group in (g for g in probe.groups if g.name in made):
        for u in range(len(group)):
            places: Places = {}
            for slot in (s for s in group.slots if s.parameter in weights):
                whole = torch.zeros(weights[slot.parameter].shape, dtype=torch.bool)
                places.setdefault(slot.parameter, whole).index_fill_(slot.dim, slot.index[u], True)
            yield Unit(tuple((s.parameter, s.index[u]) for s in made[group.name]), places, group.name)
    sizes = {n: len(r) for n, r in rows(probe).items()}
    ids = fill(probe, {n: torch.arange(size) for n, size in sizes.items()})
    for name, size in sizes.items():
        for row in sorted(set(range(size)) - taken[name]):
            yield Unit(((name, torch.tensor([row])),), {name: ids[name].cpu() == row}, name)


def spread(probe: Probe, found: list[tuple[Unit, float]]) -> dict[str, Tensor]:
    """Return the numbers of units as tensors of the weights' shapes."""
    numbers = {n: torch.zeros(len(r)) for n, r in rows(probe).items()}
    for unit, number in found:
        for name, at in unit.made:
            numbers[name][at] = number
    return fill(probe, numbers)
