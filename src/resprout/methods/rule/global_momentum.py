"""Global sparse momentum: at each step only the weights of largest |w * g| learn; the others have momentum and decay alone.

Ding, Ding, Zhou, Guo, Han, Liu: "Global Sparse Momentum SGD for Pruning Very Deep Neural Networks", NeurIPS 2019,
arXiv:1909.12778.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core import select
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Rule, Schedule
from ...core.run import Run
from ...core.train import Optimizer


@dataclass(frozen=True)
class GlobalMomentum(Rule):
    """`keep` weights of all prunable ones learn, chosen anew at every step; the rest shrink towards zero (see `shrinkage`)."""

    keep: int
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def begin(self, run: Run, steps: int) -> None:
        """Check that there is a momentum.

        Raises:
            ResproutError: an optimizer without.
        """
        if not isinstance(run.optimizer, torch.optim.SGD) or not run.optimizer.defaults["momentum"]:
            raise ResproutError("global_momentum needs SGD with momentum: Optimizer(momentum=0.98, nesterov=False)")

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Take the gradient from all but the chosen."""
        grads = {n: w.grad for n, w in run.weights().items() if w.grad is not None}
        chosen = select.top(
            {n: _worth(w, grads[n]) for n, w in run.weights().items() if n in grads}, self._count(grads)
        )
        for name, grad in grads.items():
            grad.mul_(chosen[name])

    def _count(self, grads: dict[str, Tensor]) -> int:
        return min(self.keep, sum(g.numel() for g in grads.values()))


def _worth(weight: Tensor, grad: Tensor) -> select.Elementwise:
    return select.Elementwise(lambda w, g: (w * g).abs(), (weight.detach(), grad))


def course(lr: Schedule, steps: int) -> float:
    """Return the sum of the learning rates of a training."""
    return sum(lr(i / steps) for i in range(steps))


def shrinkage(lr: Schedule, optimizer: Optimizer, steps: int) -> float:
    """Return e, when a weight that never learns is multiplied by about exp(-e) in a training.

    It is the sum of learning rate * decay / (1 - momentum): both act on it at every step, and momentum carries each pull on.
    """
    return course(lr, steps) * optimizer.decay / (1 - optimizer.momentum)
