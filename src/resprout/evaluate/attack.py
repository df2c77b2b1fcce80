"""Inputs moved within a box so that a classifier errs: one signed step (FGSM), and many that are projected back (PGD).

Goodfellow, Shlens, Szegedy: "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572; Madry, Makelov,
Schmidt, Tsipras, Vladu: "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.task import Task

Losses = Callable[[Tensor], Tensor]  # inputs -> a scalar that the attack makes large
Bound = Tensor | float


def fgsm(loss: Losses, x: Tensor, epsilon: Bound) -> Tensor:
    """Return x one step of `epsilon` along the sign of the gradient."""
    return pgd(loss, x, epsilon, epsilon, 1)


def pgd(
    loss: Losses,
    x: Tensor,
    epsilon: Bound,
    step: Bound,
    steps: int,
    low: Bound | None = None,
    high: Bound | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x after `steps` signed steps uphill, never further than `epsilon` from where it was in any coordinate.

    Args:
        loss: inputs -> a scalar, in the mode that the network is in.
        x: inputs, as the network gets them.
        epsilon, step: in the units of x; a tensor that broadcasts where channels have been scaled unlike.
        steps: how many; 0 changes nothing (but for the random start).
        low, high: what an input can be at all, in the same units.
        generator: of a random start within the box; None starts at x.

    Raises:
        ResproutError: epsilon, step or steps below 0, or NaN.
    """
    if not (bool((torch.as_tensor(epsilon) >= 0).all()) and bool((torch.as_tensor(step) >= 0).all()) and steps >= 0):
        raise ResproutError(f"epsilon, step and steps of an attack are 0 or more, got {epsilon}, {step}, {steps}")

    def allowed(moved: Tensor) -> Tensor:
        moved = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon)
        moved = moved if low is None else torch.maximum(moved, torch.as_tensor(low, dtype=x.dtype, device=x.device))
        return moved if high is None else torch.minimum(moved, torch.as_tensor(high, dtype=x.dtype, device=x.device))

    moved = x.detach()
    if generator is not None:
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) * 2 - 1
        moved = allowed(moved + noise * epsilon)
    for _ in range(steps):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            (uphill,) = torch.autograd.grad(loss(moved), moved)
        moved = allowed(moved.detach() + step * uphill.sign())
    return moved.detach()


def scale(task: Task, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, std) that the task's inputs were normalised by, shaped to go with `x`: 0 and 1 where it does not say."""
    shape = (1, -1, *(1,) * (x.dim() - 2))
    mean, std = getattr(task, "mean", ()) or (0.0,), getattr(task, "std", ()) or (1.0,)
    return torch.tensor(mean, dtype=x.dtype).view(shape), torch.tensor(std, dtype=x.dtype).view(shape)


def attacked(loss: Callable[[Any], Tensor], batch: Any, epsilon: Bound, step: Bound, steps: int) -> Any:
    """Return a batch (inputs, ...) with its inputs moved by PGD, in their own units.

    Raises:
        ResproutError: it has another form, or inputs that are no numbers.
    """
    x = batch[0] if isinstance(batch, tuple | list) and batch else None
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ResproutError("an attack moves inputs: batches must be (inputs, ...) with inputs that are numbers")
    return (pgd(lambda moved: loss((moved, *batch[1:])), x, epsilon, step, steps), *batch[1:])
