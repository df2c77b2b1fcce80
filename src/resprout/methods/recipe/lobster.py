"""LOBSTER: weights to which the loss is insensitive decay, and what has become small is cut as far as validation loss allows.

Tartaglione, Bragagnolo, Fiandrotti, Grangetto: "LOss-Based SensiTivity rEgulaRization: towards deep sparse neural networks",
Neural Networks 2022, arXiv:2011.09905. A plateau there is 20 epochs long; the way to an exact budget is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recipe
from ...core.run import Run
from ...core.steps import Arrive, Mark, Meet, Rewind
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..rule._move import weights_only
from ..rule.insensitivity import Insensitivity
from ..schedule.constant import Constant
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._plan import plan
from ._tolerance import Weigh, WithinTolerance


@dataclass(frozen=True)
class Lobster(Recipe):
    """Train under the decay; after `patience` looks (each `every` epochs) without a loss `better` by that fraction, go back to
    the best look and cut within `tolerance`. A cut that takes nothing divides the learning rate by ten.

    That goes on for three quarters of the `epochs` that a budget has, or until it is met. Then what is missing is cut at once
    and the rest of the epochs trained.
    """

    epochs: float = 40
    strength: float = 1e-4
    tolerance: float = 0.05
    patience: int = 2
    every: float = 1.0
    better: float = 0.01
    lr: float = 0.1
    optimizer: Optimizer = Optimizer(momentum=0.9, decay=0.0)  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "lobster"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 <= self.strength < 1 and self.tolerance >= 0 and 0 <= self.better < 1 and self.patience >= 1):
            raise ResproutError(
                f"strength and better lie in [0, 1), tolerance is 0 or more, patience 1 look or more; got {self}"
            )

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "lobster")
        plans = plan(run, budgets, Magnitude(), Global(), self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        for budget in reversed(plans):
            began = run.here["trained"]
            self._cut(run, budget, began + 3 * steps // 4)
            run.do(Meet(budget, Magnitude(), Global(), floor=self.floor))
            left = max(1, began + steps - run.here["trained"])
            run.do(Train(left, Cosine(self.lr, 0.0), self.optimizer, Insensitivity(self.strength)))
            run.do(Arrive(budget))

    def _cut(self, run: Run, budget: Budget, end: int) -> None:
        """Train and cut until optimizer step `end`, or until the budget is met."""
        look = max(1, round(self.every * run.task.steps_per_epoch))
        lr, best, stale = self.lr, math.inf, 0
        while (left := end - run.here["trained"]) > 0:
            run.do(Train(min(look, left), Constant(lr), self.optimizer, Insensitivity(self.strength)))
            loss = run.do(Weigh())["loss"]
            if loss < (1 - self.better) * best:
                best, stale = loss, 0
                run.do(Mark("best"))
                continue
            stale += 1
            if stale < self.patience:
                continue
            run.do(Rewind("best", masks=True))
            cut = run.do(WithinTolerance(self.tolerance, budget, self.floor))
            best, stale = math.inf, 0
            if cut["met"]:
                return
            if not cut["died"]:
                lr /= 10
