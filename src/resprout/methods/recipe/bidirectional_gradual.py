"""Bidirectional, gradual: cut gradually to a stump just past the target, regrow early by expected gain, then train on.

Ours, after "Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff",
arXiv:2511.11675; the default of `resprout fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Recipe, Score
from ...core.run import Run
from ...core.steps import Arrive
from ...core.train import Optimizer, Train
from ..allocate.lamp import Lamp
from ..rule.sprout import Sprout
from ..schedule.cosine import Cosine
from ..score.expected_gain import ExpectedGain
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class BidirectionalGradual(Recipe):
    """The smallest budget gets `epochs`; each larger one regrows from it, with `more` times as many."""

    epochs: float = 8
    stump: float = 0.75
    down: float = 0.5
    up: float = 0.65
    every: int = 16
    more: float = 0.25
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = ExpectedGain()  # noqa: RUF009
    cut_score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Lamp()  # noqa: RUF009
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk from the smallest budget to the largest."""
        plans = plan(run, budgets, self.cut_score, self.allocate, self.floor)
        epoch = run.task.steps_per_epoch
        for budget in plans:
            first = run.here["units"] > plans[budget]
            rule = Sprout(
                plans[budget], budget, self.stump, self.down if first else 0.0, self.up if first else 0.2, self.every,
                score=self.score, cut_score=self.cut_score, allocate=self.allocate, floor=self.floor,
            )  # fmt: skip
            steps = max(2, round(self.epochs * (1.0 if first else self.more) * epoch))
            lr = Cosine(self.lr if first else self.lr / 2, 0.0, warmup=0.05)
            run.do(Train(steps, lr, self.optimizer, rule, looks=8))
            run.do(Arrive(budget))
