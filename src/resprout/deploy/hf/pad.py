"""Layers of unequal size padded with zeros to the widest of them, so that a plain configuration can say their sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...graph.remove import describe
from ...graph.shape import Shape, reshape
from ...graph.shrink import put
from ...graph.structure import Structure
from ...graph.trace import trace
from .fields import Field, as_plain, fields, refused
from .net import Net


def padded(net: Net, example: Any) -> Net:
    """Return a network that computes the same, with sizes that its configuration says.

    What cannot be as narrow as the widest layer (heads, where the configuration ties their number to the width) is as wide as in
    the dense network. A branch that has left comes back with zeros.

    Args:
        net: the ragged one.
        example: what the model can be called with, to find what is coupled.

    Raises:
        ResproutError: what a branch that has left adds has no place, or no configuration can say the result.
        TraceError: the model cannot take the example.
    """
    dense = net.cls(copy.deepcopy(net.config)).eval()
    structure = trace(dense, example)
    _fill(dense, net)
    known = fields(net.cls, net.config)
    config, alive = net.config, _alive(structure, net.shape)
    for group in structure.groups:
        if not any((s.parameter, s.dim) in one.falls for one in known for s in group.slots):
            alive[group.name] = torch.ones_like(alive[group.name])
    for one in known:
        names = [g.name for g in structure.groups if any((s.parameter, s.dim) in one.falls for s in g.slots)]
        coupled = {(s.parameter, s.dim) for g in structure.groups for s in g.slots}
        free = one.falls.keys() <= coupled  # nothing that hangs on this field has to stay
        units = _fewest(one, config, [alive[n] for n in names]) if free else one.units
        config = one.less(config, one.units - units)
        for name in names:
            alive[name] = _woken(alive[name], units)
    made = _narrowed(net, dense, structure, alive)
    plain, why = as_plain(made)
    if plain is None and net.norms:  # as wide as in the dense network, norms stay plain
        counting = {f"{path}.weight" for path in structure.norms}
        for group in structure.groups:
            if any(s.parameter in counting for s in group.slots):
                alive[group.name] = torch.ones_like(alive[group.name])
        plain, why = as_plain(_narrowed(net, dense, structure, alive))
    if plain is None:
        raise ResproutError(f'it cannot be padded: {why}; ragged="code" writes the sizes as they are')
    return plain


def _fill(dense: nn.Module, net: Net) -> None:
    """Give the dense network the values of the smaller one at its indices, and zeros elsewhere."""
    own = dense.state_dict(keep_vars=True)
    kept = {id(own[n]): at for n, at in net.shape.kept.items() if n in own}  # a tied weight has several names
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
        for name, value in net.state.items():
            if name in own:
                put(own[name], value.to(own[name].dtype), kept.get(id(own[name]), {}), name)
        for path, kind in net.shape.skipped.items():
            constant = net.state.get(f"{path}.constant")
            if constant is None or not bool(constant.any()):
                continue
            bias = own.get(f"{path}.{kind.partition('@')[2]}")
            if bias is None:
                raise ResproutError(
                    f"{path!r} has left, and what it adds has no bias to stand in: it cannot be padded; "
                    'ragged="code" keeps it'
                )
            at = kept.get(id(bias), {})
            width = len(at["0"]) if "0" in at else len(bias)
            put(bias, constant.to(bias.dtype).expand(width), at, path)


def _alive(structure: Structure, shape: Shape) -> dict[str, Tensor]:
    """Return which units of each group of the dense network are left."""
    kept = {(n, int(d)): torch.tensor(at) for n, dims in shape.kept.items() for d, at in dims.items()}
    alive = {g.name: torch.ones(len(g), dtype=torch.bool) for g in structure.groups}
    for group in structure.groups:
        for slot in group.slots:
            if (slot.parameter, slot.dim) in kept:
                alive[group.name] &= torch.isin(slot.index, kept[slot.parameter, slot.dim]).flatten(1).all(1)
    return alive


def _fewest(one: Field, config: Any, alive: list[Tensor]) -> int:
    """Return the fewest units that hold all that is alive and that the configuration takes."""
    least = max((int(a.sum()) for a in alive), default=one.units)
    if any(len(a) != one.units for a in alive):
        return one.units
    return next((n for n in range(least, one.units) if not refused(one.less(config, one.units - n))), one.units)


def _woken(alive: Tensor, units: int) -> Tensor:
    """Let the first dead units live until so many do."""
    woken = alive.clone()
    woken[torch.nonzero(~alive).flatten()[: max(0, units - int(alive.sum()))]] = True
    return woken


def _narrowed(net: Net, dense: nn.Module, structure: Structure, alive: Mapping[str, Tensor]) -> Net:
    shape = describe(dense, structure, alive)
    small = reshape(copy.deepcopy(dense), shape)
    norms = {p: {"of": m.of, "dim": getattr(m, "dim", -1)} for p in shape.norms for m in [_any(small, p)]}
    made: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, value in small.state_dict(keep_vars=True).items():
        like = net.state.get(name, next(iter(net.state.values())))
        state[name] = made.setdefault(
            id(value), value.detach().to(like.dtype if value.is_floating_point() else value.dtype)
        )
    return replace(net, state=state, shape=shape, norms=norms)


def _any(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)
