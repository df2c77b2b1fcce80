"""Gradual magnitude pruning: during training, every few steps cut to the sparsity that a schedule asks for.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", ICLR 2018 workshop,
arXiv:1710.01878.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Rule, Schedule, Score
from ...core.masks import keep_count
from ...core.run import Run
from ..allocate.lamp import Lamp
from ..score.magnitude import Magnitude
from ._move import LATE, cut, drifted


@dataclass(frozen=True)
class Gradual(Rule):
    """Cut along `schedule` (of sparsity) from the fraction `since` of the steps on; it is at its end after `until` of them.

    The last cut takes `budget` to its limit where one is given; `priced` is a budget whose prices count while its limit does
    not, on the way to a stump. `every` is in optimizer steps.
    """

    schedule: Schedule
    budget: Budget | None = None
    until: float = 0.5
    every: int = 16
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Lamp()  # noqa: RUF009
    floor: int = 0
    priced: Budget | None = None
    since: float = 0.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (self.every >= 1 and 0 <= self.until <= 1 and 0 <= self.since <= 1):
            raise ResproutError(
                f"every is 1 step or more, until and since are parts of the training in [0, 1]; got every={self.every}, "
                f"until={self.until:g}, since={self.since:g}"
            )

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Cut, if it is time."""
        last = min(round(self.until * steps), steps - 1)
        first = min(round(self.since * steps), last)
        if first <= step < last and (step - first) % self.every == 0:
            keep = keep_count(self.schedule((step - first) / (last - first)), run.units.total)
            cut(run, keep, self.score, self.allocate, self.floor, self.budget or self.priced)
        elif step == last:
            keep = keep_count(self.schedule(1.0), run.units.total) if self.budget is None else None
            cut(run, keep, self.score, self.allocate, self.floor, self.budget or self.priced)
        elif step == round(LATE * steps) and drifted(run, self.budget):
            cut(run, None, self.score, self.allocate, self.floor, self.budget)
