"""Do two models compute the same? And what a model computes with some of its units or weights at zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.hold import guards, unwrap
from ..core.masks import Masks
from ..core.units import Group
from .tape import arguments, aside, moved, tensors_of

CLOSE = 1e-4  # of the largest output


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Return all tensors that `model` returns for `example`, in eval mode."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    args, kwargs = moved(arguments(example), device)
    with aside(model):
        return [t.float() for t in tensors_of(model(*args, **kwargs)) if t.is_floating_point()]


def masked(model: nn.Module, groups: Sequence[Group], alive: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `model` with zeros in all slots of the units that `alive` lacks."""
    twin = copy.deepcopy(model)
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    with torch.no_grad():
        for group in groups:
            dead = ~alive[group.name]
            for slot in group.slots:
                tensor = tensors[slot.parameter]
                tensor.index_fill_(slot.dim, slot.index[dead].flatten().to(tensor.device), 0)
    return twin


def applied(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of `model` with zeros where `masks` are dead, held by nothing.

    Raises:
        ResproutError: masks of another model.
    """
    twin = copy.deepcopy(unwrap(model))
    for guard in guards(twin):
        guard.release()
    params = dict(twin.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            if name not in params or params[name].shape != mask.shape:
                raise ResproutError(f"the masks name {name!r}, which {type(twin).__name__} does not have in that shape")
            params[name].mul_(mask.to(params[name].device))
    return twin


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the largest difference, as a part of the largest number."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return float("inf")
    worst = max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)
    return worst / max(1e-6, max((float(x.abs().max()) for x in a if x.numel()), default=1.0))
