"""MIA-Pruning: cut by ADMM and train under the mask, so that fewer weights are left to remember by; to be audited.

Wang, Wang, Wang, Zhou, Liu, Bi, Ding, Rajasekaran: "Against Membership Inference Attack: Pruning is All You Need", IJCAI 2021,
arXiv:2008.13578. Only a summary of its ADMM was at hand; its term for an attacker's gain is left out. Whether less leaks is not
promised: pruning can raise leakage (Yuan, Zhang, arXiv:2202.03335). Ask with --audit privacy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Recipe
from ...core.run import Run
from ...core.steps import Arrive
from ...core.train import Optimizer, Train
from ..allocate.uniform import Uniform
from ..rule.admm import Admm
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class MiaPrune(Recipe):
    """Each budget gets its share of `epochs`, the largest first; `rho`, `until` and `every` are the rule's."""

    epochs: float = 8
    rho: float = 0.01
    until: float = 0.6
    every: int = 32
    lr: float = 0.05
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    allocate: Allocation = Uniform()  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "mia-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        plans = plan(run, budgets, Magnitude(), self.allocate, self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        for budget, keep in reversed(plans.items()):
            rule = Admm(keep, budget, self.rho, self.until, self.every, self.allocate, self.floor)
            run.do(Train(steps, Cosine(self.lr, 0.0, warmup=0.05), self.optimizer, rule, looks=8))
            run.do(Arrive(budget))
