"""Sparse training: cut at once to the budget, then train under a rule that moves the masks and keeps their number.

Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134. There the
network is sparse from its random initialisation on (`fresh`); by default the cut is that of a trained network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Recipe, Rule, Score
from ...core.run import Run
from ...core.steps import Arrive, Meet, Rewind
from ...core.train import Optimizer, Train
from ..allocate.erk import Erk
from ..rule.rigl import RigL
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class SparseTraining(Recipe):
    """Each budget gets its share of `epochs`, the largest first; with `fresh` from the point "start", before any training."""

    epochs: float = 8
    rule: Rule = RigL()  # noqa: RUF009
    fresh: bool = False
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Erk()  # noqa: RUF009
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        plans = plan(run, budgets, self.score, self.allocate, self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        for budget in reversed(plans):
            run.do(Meet(budget, self.score, self.allocate, floor=self.floor))
            if self.fresh:
                run.do(Rewind("start"))
            run.do(Train(steps, Cosine(self.lr, 0.0, warmup=0.05), self.optimizer, self.rule, looks=8))
            run.do(Arrive(budget))
