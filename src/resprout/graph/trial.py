"""Remove a unit on trial: which numbers in a model's code must change with a group, and which groups cannot leave at all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..core.units import Group
from .alike import CLOSE, difference, masked, outputs
from .remove import remove
from .structure import Structure


def tried(model: nn.Module, found: Structure, example: Any) -> Structure:
    """Return the structure with the groups that can really leave, and the numbers in the code that go with them."""
    good, bad = _Trial(model, found, example).run(list(found.groups))
    kept = dict(found.kept_dense)
    for group in found.groups:
        if group.name in bad:
            for slot in group.slots:
                if slot.dim == 0 and slot.parameter not in kept:
                    kept[slot.parameter] = bad[group.name]
    groups = tuple(g for g in found.groups if g.name in good)
    names = {n for n, p in model.named_parameters() if p.dim() > 1}
    kept = {n: why for n, why in kept.items() if n in names}
    return replace(found, groups=groups, kept_dense=kept, attributes={n: a for n, a in good.items() if a})


Attributes = dict[str, dict[str, int]]  # group -> "module.attribute" -> its fall per unit


class _Trial:
    """All groups are tried at once. If that fails, each by itself on the meta device, which shows without arithmetic what
    does not fit and which numbers must change; then those that fit all at once again, and, if need be, by halves.
    """

    def __init__(self, model: nn.Module, found: Structure, example: Any):
        self.model, self.found, self.example = model, found, example

    def run(self, groups: list[Group]) -> tuple[Attributes, dict[str, str]]:
        """Return the attributes of the groups that can leave together, and group -> why not of the others."""
        if not self._fails(self.model, groups, {}):
            return {g.name: {} for g in groups}, {}
        good, bad = {g.name: {} for g in groups}, {}
        if (twin := self._twin()) is not None:
            for group in groups:
                found = self._fitting(twin, group)
                if isinstance(found, str):
                    bad[group.name] = found
                    del good[group.name]
                else:
                    good[group.name] = found
        good, worse = self._halves([g for g in groups if g.name in good], good)
        return good, bad | worse

    def _halves(self, groups: list[Group], fall: Attributes) -> tuple[Attributes, dict[str, str]]:
        if not groups:
            return {}, {}
        if not self._fails(self.model, groups, fall):
            return {g.name: fall[g.name] for g in groups}, {}
        if len(groups) == 1:
            found = self._fitting(self.model, groups[0])
            return ({}, {groups[0].name: found}) if isinstance(found, str) else ({groups[0].name: found}, {})
        half = len(groups) // 2
        (good, bad), (more, worse) = self._halves(groups[:half], fall), self._halves(groups[half:], fall)
        return good | more, bad | worse

    def _fitting(self, model: nn.Module, group: Group) -> dict[str, int] | str:
        """The numbers in the code that must change with a group, none if possible; or why it cannot leave."""
        if not (why := self._fails(model, [group], {})):
            return {}
        for reach in (1, 2):
            numbers = candidates(model, group, reach)
            if numbers and not self._fails(model, [group], {group.name: numbers}):
                return numbers
        return why

    def _twin(self) -> nn.Module | None:
        """The model on the meta device, unless its code looks at numbers."""
        twin, made = copy.deepcopy(self.model), {}
        for module in twin.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:  # one that is tied stays so
                        meta = tensor.detach().to("meta")
                        new = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
                        tensors[name] = made.setdefault(id(tensor), (tensor, new))[1]
        try:
            outputs(twin, self.example)
        except Exception:  # of any kind, for it runs the model's own code
            return None
        return twin

    def _fails(self, model: nn.Module, groups: Sequence[Group], fall: Attributes) -> str:
        """Why the model without one unit of each group does not compute what it does with that unit masked; or nothing."""
        alive = {g.name: torch.ones(len(g), dtype=torch.bool) for g in groups}
        for group in groups:
            alive[group.name][len(group) // 2] = len(group) == 1
        try:
            after = outputs(
                remove(model, replace(self.found, groups=tuple(groups), attributes=fall), alive), self.example
            )
        except Exception as error:  # of any kind, for it runs the model's own code
            return f"without a unit the model fails: {str(error).strip().partition(chr(10))[0]}"
        if model is not self.model:
            return ""
        gap = difference(outputs(masked(model, groups, alive), self.example), after)
        return "" if gap <= CLOSE else f"without a unit the model computes something else (by {gap:.1e} of its output)"


def candidates(model: nn.Module, group: Group, reach: int) -> dict[str, int]:
    """Return "module.attribute" -> its fall per unit, for whole numbers that equal a size of the group.

    Args:
        model: whose attributes.
        group: its sizes are those of the dimensions of its slots, and its number of units.
        reach: 1 looks at the modules that own the parameters, 2 also at their parents.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sizes = {len(group): 1} | {tensors[s.parameter].shape[s.dim]: s.repeat for s in group.slots}
    owners = {s.parameter.rpartition(".")[0] for s in group.slots}
    if reach > 1:
        owners |= {path.rpartition(".")[0] for path in owners}
    found = {}
    for path in sorted(owners):
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn.") or type(module).__name__ == "Conv1D":
            continue  # `refit` knows them
        for name, value in vars(module).items():
            if not isinstance(value, int) or isinstance(value, bool) or name.startswith("_"):
                continue
            each = sizes.get(value)
            if each is None and "head" in name and "dim" not in name and "size" not in name and value % len(group) == 0:
                each = value // len(group)
            if each:
                found[f"{path}.{name}" if path else name] = each
    return found
