"""Lottery tickets by iterative magnitude pruning: train, prune the smallest survivors, rewind to the initialisation, repeat.

Frankle, Carbin: "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019, arXiv:1803.03635.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Recipe, Recover, Score
from ...core.run import Run
from ...core.steps import Arrive, Meet, Prune
from ..allocate.global_ import Global
from ..recover.weight_rewind import WeightRewind
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class LthImp(Recipe):
    """Remove `rate` of the survivors a round until the budget is met; each round trains for its share of `epochs`.

    The network must have started from the point "start" (`fit` marks it before dense training).
    """

    epochs: float = 8
    rate: float = 0.2
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    recover: Recover = WeightRewind()  # noqa: RUF009
    floor: int = 0
    key: ClassVar[str | None] = "lth-imp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 < self.rate < 1 and self.epochs > 0):
            raise ResproutError(
                f"rate is the share of the survivors that a round removes, in (0, 1), and epochs are above 0; "
                f"got {self.rate:g} and {self.epochs:g}"
            )

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        plans = plan(run, budgets, self.score, self.allocate, self.floor)
        rounds, alive = 0, run.units.total
        while alive > min(plans.values()):
            alive, rounds = int(alive * (1 - self.rate)), rounds + 1
        each = max(1, round(self.epochs * run.task.steps_per_epoch / max(1, rounds + len(budgets) - 1)))
        for budget in reversed(plans):
            while (keep := int(run.here["units"] * (1 - self.rate))) > plans[budget]:
                run.do(Prune(1 - keep / run.units.total, self.score, self.allocate, floor=self.floor))
                for step in self.recover(each):
                    run.do(step)
            run.do(Meet(budget, self.score, self.allocate, floor=self.floor))
            for step in self.recover(each):
                run.do(step)
            run.do(Arrive(budget))
