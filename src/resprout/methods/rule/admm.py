"""ADMM: pull the weights towards their own best sparse copy, step by step, and cut when they have come near.

Zhang, Ye, Zhang, Tang, Wen, Fardad, Wang: "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of
Multipliers", ECCV 2018, arXiv:1804.03294; the pruner of Wang et al., IJCAI 2021, arXiv:2008.13578 (`mia_prune`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Rule, Scores
from ...core.run import Run
from ..allocate.uniform import Uniform
from ..score.magnitude import Magnitude
from ._move import LATE, cut, drifted


@dataclass(frozen=True)
class Admm(Rule):
    """Until `until` of the steps, minimise loss + rho/2 |W - Z + U|^2; every `every` steps Z keeps the largest of W + U.

    Z keeps `keep` units in all, and each tensor as many as `allocate` says; U adds up W - Z. Then the network is cut to as many
    (or to the limit of `budget`), and trained under the mask.
    """

    keep: int
    budget: Budget | None = None
    rho: float = 0.01
    until: float = 0.6
    every: int = 32
    allocate: Allocation = Uniform()  # noqa: RUF009
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (self.every >= 1 and self.rho > 0 and 0 <= self.until <= 1):
            raise ResproutError(
                f"rho is above 0, every 1 step or more, until a part of the training in [0, 1]; got rho={self.rho:g}, "
                f"every={self.every}, until={self.until:g}"
            )

    def begin(self, run: Run, steps: int) -> None:
        """Z is the sparse copy of now, U is zero."""
        run.slots |= {f"u:{n}": torch.zeros_like(w.detach()) for n, w in run.weights().items()}
        run.slots |= {f"z:{n}": z for n, z in self._nearest(run).items()}

    @torch.no_grad()
    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Add the pull to the gradients; move Z and U, or cut, if it is time."""
        last = min(round(self.until * steps), steps - 1)
        if step < last:
            for n, w in run.weights().items():
                if w.grad is not None:
                    w.grad.add_(w - run.slots[f"z:{n}"] + run.slots[f"u:{n}"], alpha=self.rho)
            if step and step % self.every == 0:
                run.slots |= {f"z:{n}": z for n, z in self._nearest(run).items()}
                for n, w in run.weights().items():
                    run.slots[f"u:{n}"] += w - run.slots[f"z:{n}"]
        elif step == last or (step == round(LATE * steps) and drifted(run, self.budget)):
            keep = self.keep if self.budget is None else None
            cut(run, keep, Magnitude(), self.allocate, self.floor, self.budget)

    @torch.no_grad()
    def _nearest(self, run: Run) -> dict[str, Tensor]:
        """W + U where it is among the largest, else zero."""
        wish = {n: w.detach() + run.slots[f"u:{n}"] for n, w in run.weights().items()}
        sizes = Scores({n: x.abs() for n, x in wish.items()}, run.masks, groups=run.groups)
        masks = run.granularity.choose(sizes, self.keep, self.allocate, self.floor)
        return {n: x * masks[n] for n, x in wish.items()}
