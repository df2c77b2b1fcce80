"""What a slot of a group does there: make the units, carry them on, or read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .units import Group, Slot

Role = Literal["make", "carry", "read"]
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def owner(model: nn.Module, parameter: str) -> nn.Module:
    """Return the module that holds `parameter`."""
    return model.get_submodule(parameter.rpartition(".")[0])


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by every name they have."""
    params = dict(model.named_parameters(remove_duplicate=False))
    return params | dict(model.named_buffers(remove_duplicate=False))


def depthwise(module: nn.Module) -> bool:
    """Whether `module` is a convolution whose every output reads one input."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.weight.shape[1] == 1


def inputs_first(module: nn.Module) -> bool:
    """Whether dimension 0 of the weight is the inputs: in transposed convolutions, and in Hugging Face's `Conv1D`."""
    return isinstance(module, TRANSPOSED) or type(module).__name__ == "Conv1D"


def mixes(model: nn.Module, group: Group) -> bool:
    """Whether a norm of one unit of the group depends on others, as all norms do but batch norm."""
    modules = (owner(model, s.parameter) for s in group.slots)
    return any("Norm" in type(m).__name__ and not isinstance(m, _BatchNorm) for m in modules)


def role(model: nn.Module, slot: Slot) -> Role:
    """Say what `slot` does: biases, norms and depthwise weights carry, tables (embeddings) only make."""
    if slot.reads:
        return "read"
    module, tensor = owner(model, slot.parameter), tensors(model)[slot.parameter]
    if tensor.dim() < 2 or depthwise(module):
        return "carry"
    if inputs_first(module):
        return "read" if slot.dim == 0 else "make"
    if isinstance(module, nn.Embedding) or (tensor.dim() > 2 and not isinstance(module, CONVOLUTIONS)):
        return "make"
    return "make" if slot.dim == 0 else "read"


def making(model: nn.Module, group: Group) -> tuple[Slot, ...]:
    """Return the slots whose joint zero makes a unit of `group` exactly zero: weights, biases, norms; no buffers."""
    params = dict(model.named_parameters())
    return tuple(s for s in group.slots if s.parameter in params and role(model, s) != "read")


def reading(model: nn.Module, group: Group) -> tuple[Slot, ...]:
    """Return the slots that read the units of `group`."""
    return tuple(s for s in group.slots if role(model, s) == "read")


def rows(values: Mapping[str, Tensor], slots: Sequence[Slot]) -> Tensor:
    """Return what `values` (parameter name -> tensor) hold of each unit, side by side: (units, numbers), float32."""
    parts = []
    for slot in slots:
        tensor, units = values[slot.parameter], len(slot.index)
        picked = tensor.index_select(slot.dim, slot.index.flatten().to(tensor.device)).movedim(slot.dim, 0)
        parts.append(picked.reshape(units, -1).float())
    return torch.cat(parts, 1)


@torch.no_grad()
def scale(values: Mapping[str, Tensor], slots: Sequence[Slot], factors: Tensor) -> None:
    """Multiply the slots of each unit by its factor (units,), in place."""
    for slot in slots:
        tensor, at = values[slot.parameter], slot.index.flatten().to(values[slot.parameter].device)
        tensor.index_copy_(slot.dim, at, tensor.index_select(slot.dim, at) * _along(slot, factors, tensor))


@torch.no_grad()
def pull(params: Mapping[str, Tensor], slots: Sequence[Slot], factors: Tensor) -> None:
    """Add to the gradients of the slots their own values times the factor of each unit (units,)."""
    for slot in slots:
        param, at = params[slot.parameter], slot.index.flatten().to(params[slot.parameter].device)
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        param.grad.index_add_(slot.dim, at, param.index_select(slot.dim, at) * _along(slot, factors, param))


def _along(slot: Slot, factors: Tensor, tensor: Tensor) -> Tensor:
    """Return the factors of the positions of `slot`, to broadcast against `tensor`."""
    return factors.to(tensor).repeat_interleave(slot.repeat).view(-1, *[1] * (tensor.dim() - 1 - slot.dim))


def selectable(
    model: nn.Module, groups: Sequence[Group], wanted: Collection[str], masked: Collection[str]
) -> tuple[Group, ...]:
    """Return the groups that may be pruned by masks.

    Args:
        model: the network.
        groups: its coupled units.
        wanted: the weights whose outputs may leave (what `targets` and `ignore` left); a group that another one makes stays.
        masked: the weights that have masks. A unit that a weight without one reads would go on being seen, so it stays.
    """
    kept = []
    for group in groups:
        layer = group.kind == "layer"  # which is all of its weights
        roles = {(s.parameter, s.dim): "make" if layer else role(model, s) for s in group.slots}
        makers = {p for (p, _), what in roles.items() if what != "read" and p in masked}
        readers = {p for (p, _), what in roles.items() if what == "read"}
        if makers and makers <= set(wanted) and readers <= set(masked):
            kept.append(group)
    return tuple(kept)
