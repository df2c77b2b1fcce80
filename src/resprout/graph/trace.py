"""From a model to the groups of channels, heads and layers that can leave it, and a list of what cannot, with reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.hold import unwrap
from ..core.units import Group, Slot
from .labels import Labels
from .layers import with_layers
from .rules import Rules
from .structure import Structure
from .tape import record
from .trial import tried


def couple(model: nn.Module, example: Any) -> Structure:
    """Find the groups of `model` by one forward pass on `example`; nothing is checked yet.

    Raises:
        TraceError: the model cannot take the example.
    """
    bare = unwrap(model)
    rules = Rules(bare, record(bare, example))
    labels = rules.labels
    classes = labels.classes()
    reasons = labels.frozen(classes)
    heads = {int(c) for atoms in labels.heads for c in np.unique(classes[atoms.numpy()])}
    shapes = {n: p.shape for n, p in bare.named_parameters()}
    groups, taken, kept = [], defaultdict(int), {}
    for members, slots in _alike(labels, classes, reasons):
        head = int(members[0]) in heads
        if len(members) < 2 and not head:
            reasons[int(members[0])] = "all its channels hang together"
            continue
        name = next(
            (s.parameter for s in slots if s.dim == 0 and len(shapes.get(s.parameter, ())) > 1), slots[0].parameter
        )
        taken[name] += 1
        label = name if taken[name] == 1 else f"{name}#{taken[name]}"
        groups.append(Group(label, "head" if head else "channel", slots))
    for name, dim, first, size in labels.where:
        if dim == 0 and size > 1 and len(shapes.get(name, ())) > 1:
            why = next((reasons[c] for c in classes[first : first + size].tolist() if c in reasons), None)
            if why is not None:
                kept[name] = why
    used = {s.parameter for g in groups for s in g.slots}
    counted = {path for _, path in labels.counted if any(f"{path}.{p}" in used for p in ("weight", "bias"))}
    return Structure(tuple(groups), kept, tuple(sorted(counted)), {}, rules.unknown, rules.literal)


def trace(model: nn.Module, example: Any, layers: bool = False) -> Structure:
    """Find the groups of `model`: what is coupled, and what could not be traced, and why.

    Where the model's code may name sizes (views, splits, norms), one unit of each group is removed on trial, on the
    example: the numbers in the code that must change are found, and what cannot leave after all is kept dense.

    Args:
        model: left as it is.
        example: what the model can be called with: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        layers: look for whole layers too, residual branches that can leave; each is a group of one unit.

    Raises:
        TraceError: the model cannot take the example.

    Example:
        >>> groups, kept_dense = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> groups[0]
        Group('0.weight', 8 channels, 3 slots)
        >>> kept_dense
        {'2.weight': 'the network returns it'}
    """
    found = couple(model, example)
    if found.literal or found.norms:
        found = tried(unwrap(model), found, example)
    if layers:
        found = with_layers(model, found, example)
    return found


def _alike(
    labels: Labels, classes: np.ndarray, reasons: Mapping[int, str]
) -> list[tuple[np.ndarray, tuple[Slot, ...]]]:
    """Return the classes that may leave, those with the same slots together, and these slots."""
    slot = np.repeat(np.arange(len(labels.where)), [size for *_, size in labels.where])
    place = np.concatenate([np.arange(size) for *_, size in labels.where])
    which = classes[1:]
    stays = np.isin(which, np.fromiter(reasons, dtype=np.int64))
    slot, place, which = slot[~stays], place[~stays], which[~stays]
    # Equal multisets of slots have equal sums of random numbers, and others do not, but for one case in 2^64.
    numbers = np.random.default_rng(0).integers(1 << 62, size=len(labels.where))
    sums = np.zeros(labels.count, dtype=np.int64)
    np.add.at(sums, which, numbers[slot])
    first = np.unique(which)
    alike = {int(s): first[sums[first] == s] for s in dict.fromkeys(sums[first].tolist())}
    first_atom, read = [first for _, _, first, _ in labels.where], np.zeros(labels.count, dtype=bool)
    for atoms in labels.read:
        read[atoms.numpy()] = True
    order = np.lexsort((place, which, slot, sums[which]))
    slot, place, mine = slot[order], place[order], sums[which][order]
    found = []
    for s, members in alike.items():
        low, high = np.searchsorted(mine, s, "left"), np.searchsorted(mine, s, "right")
        slots = []
        for k in np.unique(slot[low:high]):
            at = place[low:high][slot[low:high] == k]
            name, dim = labels.where[k][:2]
            index = torch.from_numpy(at.reshape(len(members), -1))
            slots.append(Slot(name, dim, index, bool(read[first_atom[k] + at[0]])))
        found.append((members, tuple(slots)))
    return found
