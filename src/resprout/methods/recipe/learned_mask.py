"""Learned mask: weights and masks are trained together, while fewer and fewer units pass; one way, for each budget.

Sanh, Wolf, Rush: "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, arXiv:2005.07683 (the gate, the cubic
schedule between a warm-up and a cool-down, scores that learn 333 times as fast as weights, distillation as `objective`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Gate, Objective, Recipe
from ...core.learn import Learn
from ...core.run import Run
from ...core.steps import Arrive
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..gate.straight_through import StraightThrough
from ..schedule.cosine import Cosine
from ..schedule.cubic import Cubic
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class LearnedMask(Recipe):
    """The largest budget first; each has its share of `epochs`, the last `rest` of which trains under the masks found."""

    epochs: float = 8
    gate: Gate = StraightThrough()  # noqa: RUF009
    begin: float = 0.1
    end: float = 0.7
    rest: float = 0.1
    lr: float = 1e-3
    optimizer: Optimizer = Optimizer("adamw", times=333.0)  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    objective: Objective | None = None
    key: ClassVar[str | None] = "movement"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 <= self.begin < self.end <= 1 and 0 <= self.rest < 1):
            raise ResproutError(
                f"units leave from begin to end, 0 <= begin < end <= 1, and rest is a part of the epochs in [0, 1); "
                f"got begin={self.begin:g}, end={self.end:g}, rest={self.rest:g}"
            )

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        steps = max(2, round(self.epochs * run.task.steps_per_epoch / len(budgets)))
        rest = min(steps - 1, max(1, round(self.rest * steps)))
        lr, then = Cosine(self.lr, 0.0, warmup=0.05), (1 - rest / steps, 1.0)
        plans = plan(run, budgets, Magnitude(), self.allocate, 0)
        for budget in reversed(plans):
            train = Train(steps - rest, lr, self.optimizer, span=(0.0, then[0]), looks=6, objective=self.objective)
            way = Cubic(0.0, 1.0)
            run.do(Learn(train, self.gate, plans[budget], way, self.begin, self.end, self.allocate, budget=budget))
            run.do(Train(rest, lr, self.optimizer, span=then, looks=2, objective=self.objective))
            run.do(Arrive(budget))
