"""Weights as one row per output channel, and where a group's units are made and read; not a method."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ...core.masks import PRUNABLE
from ...core.probe import Probe
from ...core.roles import TRANSPOSED, reading
from ...core.units import Group, Slot


def owner(weight: str) -> str:
    """Return the name of the module that a parameter belongs to."""
    return weight.rpartition(".")[0]


def inputs_first(module: nn.Module | None) -> bool:
    """Whether the weight's dimension 0 is the inputs: in transposed convolutions, and in Hugging Face's `Conv1D`."""
    return isinstance(module, TRANSPOSED) or type(module).__name__ == "Conv1D"


def rows(probe: Probe, of: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return every prunable weight (or what `of` has of its shape) as (output channels, all that one of them has)."""
    modules = dict(probe.model.named_modules())
    of = probe.weights() if of is None else of
    return {n: _turn(t, modules.get(owner(n))).flatten(1) for n, t in of.items()}


def fill(probe: Probe, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one number per output channel (output channels,) as a tensor of each weight's shape."""
    modules = dict(probe.model.named_modules())
    found = {}
    for name, weight in probe.weights().items():
        module, number = modules.get(owner(name)), numbers[name].to(weight.device).float()
        like = _turn(weight, module)
        found[name] = _turn(number.view(-1, *[1] * (like.dim() - 1)).expand_as(like), module)
    return found


def _turn(weight: Tensor, module: nn.Module | None) -> Tensor:
    """Put outputs before inputs, or back again, where the inputs come first (in each group of the convolution)."""
    if not inputs_first(module):
        return weight
    groups = getattr(module, "groups", 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def makers(probe: Probe) -> Iterator[tuple[Group, Slot]]:
    """Yield every place where a group's channels or heads are rows of a prunable weight."""
    for group in (g for g in probe.groups if g.kind != "layer"):
        for slot in made_by(probe, group):
            yield group, slot


def made_by(probe: Probe, group: Group) -> list[Slot]:
    """Return where a group's units are rows of prunable weights."""
    modules, weights = dict(probe.model.named_modules()), set(probe.names)
    known = [s for s in group.slots if s.parameter in weights]
    return [s for s in known if s.dim == int(inputs_first(modules.get(owner(s.parameter))))]


def alike(probe: Probe) -> list[Group]:
    """Return the groups whose units one ranking compares: whole layers where they are known, else all; without groups, rows."""
    if probe.groups:
        return [g for g in probe.groups if g.kind == "layer"] or list(probe.groups)
    modules = dict(probe.model.named_modules())
    dims = {n: int(inputs_first(modules.get(owner(n)))) for n in probe.names}
    sizes = {n: torch.arange(m.shape[dims[n]])[:, None] for n, m in probe.masks.items()}
    return [Group(n, "channel", (Slot(n, dims[n], sizes[n]),)) for n in probe.names]


def alone(probe: Probe) -> set[str]:
    """Return the weights whose rows no group holds, but that may be cut: all without groups, else those of whole layers."""
    if not probe.groups:
        return set(probe.names)
    layers = {slot.parameter for group in probe.groups if group.kind == "layer" for slot in group.slots}
    return (layers & set(probe.names)) - {slot.parameter for _, slot in makers(probe)}


def readers(probe: Probe, group: Group) -> list[Slot]:
    """Return the places where linear layers and convolutions read a group's units."""
    modules = dict(probe.model.named_modules())
    found = [(s, modules.get(owner(s.parameter))) for s in reading(probe.model, group)]
    return [s for s, m in found if isinstance(m, PRUNABLE) or inputs_first(m)]


def following(probe: Probe, after: str, slots: list[Slot]) -> Slot | None:
    """Return the first of `slots` whose parameter comes after `after` in the model, else the first."""
    place = {n: i for i, n in enumerate(dict(probe.model.named_parameters()))}
    known = [s for s in slots if s.parameter in place]
    later = [s for s in known if place[s.parameter] > place[after]]
    return min(later or known, key=lambda s: place[s.parameter], default=None)
