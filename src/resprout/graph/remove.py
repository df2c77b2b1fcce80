"""Take units out of a model: smaller parameters, smaller numbers in its code, layers skipped."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import LayerDied
from ..core.hold import guards, unwrap
from ..core.masks import prunable
from .layers import without
from .shape import MARK, Shape, reshape, shape_of
from .skip import Branch, Skip
from .structure import Structure


def remove(model: nn.Module, structure: Structure, alive: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `model` without the units that `alive` (group -> bool (units,)) lacks.

    Raises:
        LayerDied: a group that nothing is left of, and that leaves with no layer.
    """
    layers = [b for b in structure.layers if not bool(alive[b.name].any())]
    inside = _inside(model, structure, layers)
    alive = {n: torch.ones_like(a) if n in inside and not bool(a.any()) else a for n, a in alive.items()}
    for group in structure.groups:
        if not bool(alive[group.name].any()):
            raise LayerDied(
                f"nothing is left of {group.name!r} ({len(group)} {group.kind}s): keep at least one with floor=1, or remove "
                'whole layers with granularity="layer"'
            )
    small = copy.deepcopy(unwrap(model))
    for guard in guards(small):
        guard.release()
    before, shape = shape_of(small), describe(small, structure, alive)
    reshape(small, shape)
    if layers:
        _without(small, shape, layers, structure.example)
    if before is not None:
        setattr(small, MARK, getattr(small, MARK).onto(before))
    return small


def _inside(model: nn.Module, structure: Structure, layers: Sequence[Branch]) -> set[str]:
    """The groups that layers take along with them: those of the layers, and all whose weights are theirs alone."""
    gone = {name for branch in layers for name in branch.weights}
    weights = set(prunable(unwrap(model))) if layers else set()
    taken = {g.name for g in structure.groups if layers and {s.parameter for s in g.slots} & weights <= gone}
    return taken | {branch.name for branch in layers}


def _without(small: nn.Module, shape: Shape, layers: Sequence[Branch], example: Any) -> None:
    """Take layers out of a model that has lost its channels, and of its shape what was within them."""
    own = dict(small.named_parameters())
    with torch.no_grad():
        for name in (n for branch in layers for n in branch.weights):
            own[name].zero_()
    skipped = without(small, layers, example)

    def stays(name: str) -> bool:
        return not any(name.startswith(f"{path}.") for path in skipped)

    biases = {f"{path}.{m.bias}" for path, m in small.named_modules() if isinstance(m, Skip)}  # for `expand`
    kept = {n: at for n, at in shape.kept.items() if stays(n) or n in biases}
    attributes = {n: size for n, size in shape.attributes.items() if stays(n)}
    norms = [n for n in shape.norms if stays(f"{n}.")]
    setattr(small, MARK, Shape(kept, attributes, norms, skipped))


def describe(model: nn.Module, structure: Structure, alive: Mapping[str, Tensor]) -> Shape:
    """Return the shape of `model` without the units that `alive` lacks."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    gone: dict[tuple[str, int], list[Tensor]] = {}
    attributes: dict[str, int] = {}
    for group in structure.groups:
        dead = ~alive[group.name].cpu()
        if not bool(dead.any()):
            continue
        for slot in group.slots:
            gone.setdefault((slot.parameter, slot.dim), []).append(slot.index[dead].flatten())
        for name, each in structure.attributes.get(group.name, {}).items():
            path, _, leaf = name.rpartition(".")
            attributes.setdefault(name, getattr(model.get_submodule(path), leaf))
            attributes[name] -= each * int(dead.sum())
    kept: dict[str, dict[str, list[int]]] = {}
    for (name, dim), lost in gone.items():
        present = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
        present[torch.cat(lost)] = False
        kept.setdefault(name, {})[str(dim)] = torch.nonzero(present).flatten().tolist()
    return Shape(kept, attributes, [path for path in structure.norms if f"{path}.weight" in kept])
