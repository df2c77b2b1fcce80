"""Shrink a model: dead channels and heads leave it. Expand it: they come back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, TraceError
from ..core.hold import guards, unwrap
from ..core.masks import Masks
from ..core.units import living
from .alike import CLOSE, applied, difference, outputs
from .remove import describe, remove
from .shape import shape_of
from .skip import Skip
from .structure import Structure
from .trace import trace

COARSE = 0.03  # of the largest output, in half precision


def shrink(
    model: nn.Module,
    masks: Masks,
    example: Any = None,
    *,
    structure: Structure | None = None,
    round_to: int = 1,
) -> nn.Module:
    """Return a copy of `model` without the units that are dead in `masks`: an ordinary module with smaller layers.

    It computes what the masked model computes (with an example, this is checked). Dead weights within units that live stay,
    as zeros. A model that has been shrunk can be shrunk again.

    Args:
        model: the dense or masked model; it is left as it is.
        masks: which weights are alive.
        example: what the model can be called with: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        structure: what `trace` found, if it is at hand; then no example is needed.
        round_to: keep as many dead units of each group as make their number a multiple of this.

    Raises:
        LayerDied: a group that nothing is left of.
        ResproutError: neither example nor structure, or `round_to` below 1.
        TraceError: the model cannot take the example, or the smaller one would compute something else.
    """
    if structure is None:
        if example is None:
            raise ResproutError("shrink needs example=: an input that the model can be called with")
        structure = trace(model, example, layers=any(not bool(m.any()) for m in masks.values()))
    if not isinstance(round_to, int) or round_to < 1:
        raise ResproutError(f"round_to must be a whole number of at least 1, got {round_to!r}")
    alive = living(structure.groups, masks)
    for branch in structure.layers:
        if not all(name in masks for name in branch.weights):  # what no mask knows lives
            alive[branch.name] = torch.ones_like(alive[branch.name])
    for group in structure.groups:
        alive[group.name] = rounded(alive[group.name], round_to)
    small = remove(model, structure, alive)
    own, kept = dict(small.named_parameters()), describe(unwrap(model), structure, alive).kept
    with torch.no_grad():
        for name, mask in ((n, m) for n, m in masks.items() if n in own):
            for dim, at in kept.get(name, {}).items():
                mask = mask.index_select(int(dim), torch.tensor(at, device=mask.device))
            own[name].mul_(mask.to(own[name].device))
    if example is not None:
        gap = difference(outputs(applied(model, masks), example), outputs(small, example))
        fine = all(p.dtype in (torch.float32, torch.float64) for p in small.parameters())
        if gap > (CLOSE if fine else COARSE):
            raise TraceError(
                f"without its dead units {type(unwrap(model)).__name__} would compute something else, by {gap:.1e} of its "
                "output: some weight that reads them has no mask; prune with granularity='channel', or name it in targets"
            )
    return small


def rounded(alive: Tensor, to: int) -> Tensor:
    """Let so many dead units live, the first ones, that the number alive is a multiple of `to` (or all there are)."""
    short = min(-int(alive.sum()) % to, int((~alive).sum()))
    woken = alive.clone()
    woken[torch.nonzero(~alive).flatten()[:short]] = True
    return woken


def expand(small: nn.Module, like: nn.Module, *, zeros: bool = False) -> nn.Module:
    """Return a copy of `like` with the values of `small` at the indices that are present in it.

    What had left comes back with the values of `like`: with the dense network that `small` was shrunk from, and weights that
    have not been trained since, the result is that network, bit for bit.

    Args:
        small: what `shrink` returned, or `load` read.
        like: the dense network; it is left as it is.
        zeros: what had left comes back as zeros instead, so that the result computes what `small` does.

    Raises:
        ResproutError: `small` has not been shrunk, or from another network.
    """
    shape = shape_of(unwrap(small))
    if shape is None:
        raise ResproutError("expand needs a module that rs.shrink returned or rs.load read; this one has no shape")
    whole = copy.deepcopy(unwrap(like))
    for guard in guards(whole):
        guard.release()
    if shape_of(whole) is not None:
        raise ResproutError("like= must be the dense network, and this one has been shrunk itself")
    state, own = whole.state_dict(keep_vars=True), unwrap(small).state_dict()
    gone = [n for n in own if n not in state and not n.endswith(".constant")]
    if gone:
        raise ResproutError(f"like= has no {gone[0]!r}: it is another network than the one that was shrunk")
    kept = {id(state[n]): at for n, at in shape.kept.items() if n in state}  # a tied weight has several names
    with torch.no_grad():
        for parameter in whole.parameters() if zeros else ():
            parameter.zero_()
        for name, tensor in own.items():
            if name in state:
                put(state[name], tensor, kept.get(id(state[name]), {}), name)
        for path, skip in unwrap(small).named_modules() if zeros else ():
            if isinstance(skip, Skip) and (bias := state.get(f"{path}.{skip.bias}")) is not None:
                at = kept.get(id(bias), {})
                width = len(at["0"]) if "0" in at else len(bias)
                put(bias, skip.constant.expand(width), at, f"{path}.{skip.bias}")
    return whole


def put(into: Tensor, values: Tensor, kept: Mapping[str, list[int]], name: str) -> None:
    """Write `values` at the kept indices of `into`.

    Raises:
        ResproutError: they do not fit.
    """
    at = [torch.arange(n) for n in into.shape]
    for dim, indices in kept.items():
        at[int(dim)] = torch.tensor(indices)
    if tuple(map(len, at)) != tuple(values.shape):
        raise ResproutError(
            f"{name!r} of shape {tuple(values.shape)} does not fit into {tuple(into.shape)}: another network"
        )
    if not kept:
        into.copy_(values)
    else:
        into[torch.meshgrid(*at, indexing="ij")] = values.to(into)
