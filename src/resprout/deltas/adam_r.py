"""AdamR: Adam that pulls the weights back to those it began with, so that fine-tuning leaves small differences.

Deng et al.: "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models", ICLR 2025, arXiv:2410.09344. The pull
is decoupled from the gradient and divided by the root of the mean second moment, as in AdamS (Xie et al., NeurIPS 2023,
arXiv:2011.11152). An optimizer as those of torch, not a method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ResproutError


class AdamR(torch.optim.Optimizer):
    """Adam with the pull lr * pull * (w - w0) / sqrt(mean of the second moments of all weights).

    Args:
        params: what is trained; as each is at its first step is w0.
        lr: step size.
        betas: of the two moments.
        eps: beside the root of the second.
        pull: strength.

    Raises:
        ResproutError: a number that is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        pull: float = 1e-2,
    ):
        if not (lr >= 0 and pull >= 0 and eps > 0 and all(0 <= b < 1 for b in betas)):
            raise ResproutError(
                "AdamR needs lr and pull of 0 or more, eps above 0 and betas in [0, 1), got "
                f"lr={lr:g}, pull={pull:g}, eps={eps:g}, betas={betas}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "pull": pull})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            self._step(group)
        return value

    def _step(self, group: dict[str, Any]) -> None:
        (b1, b2), moved = group["betas"], [p for p in group["params"] if p.grad is not None]
        seconds: list[Tensor] = []
        for p in moved:
            state = self.state[p]
            if not state:
                state |= {
                    "step": 0,
                    "first": torch.zeros_like(p),
                    "second": torch.zeros_like(p),
                    "from": p.detach().clone(),
                }
            state["step"] += 1
            state["first"].lerp_(p.grad, 1 - b1)
            state["second"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            seconds.append(state["second"] / (1 - b2 ** state["step"]))
        if not moved:
            return
        mean = torch.stack([s.double().sum() for s in seconds]).sum() / sum(s.numel() for s in seconds)
        pull = group["lr"] * group["pull"] / max(float(mean.sqrt()), group["eps"])
        for p, second in zip(moved, seconds, strict=True):
            state = self.state[p]
            back = (p - state["from"]).mul_(min(pull, 1.0))  # farther than to where it began would be no decay
            first = state["first"] / (1 - b1 ** state["step"])
            p.sub_(back).addcdiv_(first, second.sqrt().add_(group["eps"]), value=-group["lr"])
