"""Sparsity that cannot be lost: masks enforced from outside, whatever the training loop does.

Parameters keep their names and stay ordinary: no reparametrisation, nothing extra in the `state_dict`. After each
optimizer step the dead weights are multiplied by zero. Before a forward pass and before a `state_dict` is taken,
weights that were changed behind our back (an EMA update, a manual edit) are masked again, and so they are after a
`load_state_dict`. Copies of the model made by `deepcopy` carry a guard of their own.

What it cannot see: writing through `.data` after the last step; it is mended at the next step, forward pass in a copy,
or `state_dict`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import LayerDied, ResproutError
from .kinds import Fill
from .masks import Masks


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside wrappers that keep its parameters (DDP, `torch.compile`)."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


class Guard:
    """Keeps `masks` in force on a model; made by `hold`."""

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer | None):
        self.model = unwrap(model)
        self.optimizer = optimizer
        self._masks = masks
        self._factors: list[Tensor] = []
        self._seen = -1
        self._handle: Any = None
        weights = self.weights()
        if optimizer is not None:
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            stray = [name for name, weight in zip(masks, weights, strict=True) if id(weight) not in owned]
            if len(stray) == len(masks):
                raise ResproutError(
                    f"the optimizer holds none of the {len(masks)} masked weights ({stray[0]!r}, ...): "
                    "build it from this very model's parameters, then call hold"
                )
            self._handle = optimizer.register_step_post_hook(self._after_step)
        for other in guards(self.model):  # only now that nothing can go wrong any more
            other.release()
        self.model.register_forward_pre_hook(self._before_forward)
        self.model.register_state_dict_pre_hook(self._before_save)
        self.model.register_load_state_dict_post_hook(self._after_load)
        self.change(masks)

    @property
    def masks(self) -> Masks:
        """The masks in force; change them with `change`."""
        return self._masks

    def weights(self) -> list[Tensor]:
        """Return the masked parameters, in the masks' order.

        Raises:
            ResproutError: one has gone, or changed its shape.
        """
        found: list[Tensor] = []
        for name, mask in self._masks.items():
            *path, leaf = name.split(".")
            module: nn.Module | None = self.model
            for part in path:  # `get_submodule` is ten times slower
                module = None if module is None else module._modules.get(part)
            weight = None if module is None else module._parameters.get(leaf)
            if weight is None or weight.shape != mask.shape:
                raise self._lost(name)
            found.append(weight)
        return found

    def _lost(self, name: str) -> ResproutError:
        return ResproutError(
            f"cannot keep {name!r} sparse: it is no parameter of {type(self.model).__name__} of the mask's shape "
            "(re-parametrised, flattened by FSDP1, or replaced?); hold before wrapping, or release the guard first"
        )

    @torch.no_grad()
    def change(self, masks: Masks) -> None:
        """Put new masks in force: zero the dead and clear the optimizer's state of the dead and the reborn."""
        stay = self._masks & masks
        self._masks, self._factors = masks, []
        weights = self.weights()
        for name, weight in zip(masks, weights, strict=True):
            for value in (self.optimizer.state.get(weight, {}) if self.optimizer else {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.mul_(stay[name].to(value.device))
        self.enforce()

    @torch.no_grad()
    def enforce(self) -> None:
        """Zero the dead weights now."""
        weights = self.weights()
        if any(f.device != w.device or f.dtype != w.dtype for f, w in zip(self._factors, weights, strict=False)):
            self._factors = []  # the model has moved
        if not self._factors:  # empty_like: in the weight's own memory format, which is what makes this fast
            masks = self._masks.values()
            self._factors = [torch.empty_like(w).copy_(m) for w, m in zip(weights, masks, strict=True)]
        # Through `.data`, so that a pass between forward and backward does not look like a change to autograd.
        torch._foreach_mul_([w.data for w in weights], self._factors)
        self._seen = sum(w._version for w in weights)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.enforce()

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        weights = self.weights()
        if not all(isinstance(w, nn.Parameter) for w in weights):
            return  # `functional_call` with tensors of the caller's: not ours to change
        if self.optimizer is None or sum(w._version for w in weights) != self._seen:
            self.enforce()

    def _before_save(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        self.enforce()

    def _after_load(self, module: nn.Module, incompatible: Any) -> None:
        self.enforce()

    def release(self) -> None:
        """Let go: the weights stay as they are and may grow back."""
        if self._handle is not None:
            self._handle.remove()
        model = self.model
        for hooks in (model._forward_pre_hooks, model._state_dict_pre_hooks, model._load_state_dict_post_hooks):
            for key in [k for k, hook in hooks.items() if getattr(hook, "__self__", None) is self]:
                del hooks[key]  # by owner, for a copied guard has no handles

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        """A copied model (an EMA, a fork) is held by a guard of its own, without an optimizer."""
        twin = object.__new__(Guard)
        memo[id(self)] = twin
        twin.model = copy.deepcopy(self.model, memo)
        twin.optimizer, twin._handle, twin._masks = None, None, self._masks
        twin._factors, twin._seen = self._factors, -1
        return twin


def guards(model: nn.Module) -> list[Guard]:
    """Return the guards that hold `model`."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, Guard)]


def hold(model: nn.Module, masks: Masks, optimizer: Optimizer | None = None) -> Guard:
    """Keep `model` as sparse as `masks`, whatever the training loop does, until `guard.release()`.

    Survives momentum, weight decay, AMP, gradient accumulation, EMA copies, `deepcopy`, `load_state_dict` of dense
    weights, DDP and `torch.compile`. Holding a held model again replaces the guard.

    Args:
        model: the model, plain or wrapped by DDP.
        masks: which weights live.
        optimizer: the one that will step; without one the masks are enforced before each forward pass.

    Raises:
        ResproutError: the masks or the optimizer belong to another model.
    """
    return Guard(model, masks, optimizer)


@torch.no_grad()
def change_masks(
    model: nn.Module,
    old: Masks,
    new: Masks,
    fill: Fill | None = None,
    anchor: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    values: Mapping[str, Tensor] | None = None,
    beside: Collection[str] = (),
) -> dict[str, int]:
    """Zero the dead, give the reborn their values, and tell the model's guards.

    Args:
        model: the network, under the masks `old`.
        old: the masks so far.
        new: the masks from now on.
        fill: the values of reborn weights; default zero.
        anchor: the dense network's tensors, for `fill`.
        generator: randomness for `fill`.
        values: the values of reborn weights themselves, in place of `fill`.
        beside: weights that may all die without a warning, for what they add to is passed on beside them.

    Returns:
        {"died": ..., "reborn": ...} in weights.
    """
    died, reborn = old - new, new - old
    params = dict(model.named_parameters())
    for name, mask in new.items():
        weight, born = params[name], reborn[name].to(params[name].device)
        if torch.any(born):
            if values is not None:
                weight[born] = values[name].to(weight)[born]
            elif fill is not None:
                dense = None if anchor is None else anchor[name].to(weight)
                weight[born] = fill(weight, dense, generator or torch.Generator()).to(weight)[born]
            else:
                weight[born] = 0
        weight.masked_fill_(~mask.to(weight.device), 0)
    for guard in guards(model):
        guard.change(new)
    emptied = [n for n, k in new.counts.items() if k == 0 and old.counts[n] > 0 and n not in beside]
    if emptied:
        warnings.warn(
            f"no weight is left in {', '.join(emptied)}: nothing passes through; set floor=1 or more to keep it alive",
            LayerDied,
            stacklevel=3,
        )
    return {"died": died.alive, "reborn": reborn.alive}
