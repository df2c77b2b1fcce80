"""Adaptive activation-based pruning: cut the units of low attention, rewind, retrain, and raise the threshold as long as
accuracy or a budget asks for it.

Zhao, Jain, Zhao: "Adaptive Activation-based Structured Pruning", 2022, arXiv:2201.10520. Thresholds here are multiples of
the dense network's mean attention, and the last cut for a budget ends where it is met; both are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recipe, Recover, Score
from ...core.run import Run
from ...core.steps import Arrive, Look, Mark, Rewind
from ..recover.weight_rewind import WeightRewind
from ..score.attention_map import AttentionMap
from ._threshold import Cut


@dataclass(frozen=True)
class Aap(Recipe):
    """At most `rounds` rounds share the `epochs`; each raises the threshold by `increment`. It needs units (granularity).

    Without `drop`, the threshold rises until the budget is met: the paper's memory-constrained and latency-sensitive
    policies, by the budget's kind. With `drop`, the accuracy-critical policy: the network shrinks as long as validation
    accuracy stays within `drop` of that of the network at the start; a round that loses more is rolled back, and the
    increment halved until it is below `tolerance`. Budgets are then only checked at the end; a sparsity of 0 asks for nothing.
    """

    epochs: float = 8
    drop: float | None = None
    rounds: int = 16
    increment: float = 0.1
    tolerance: float = 0.01
    score: Score = AttentionMap()  # noqa: RUF009
    recover: Recover = WeightRewind()  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "aap"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.increment <= 0 or self.tolerance <= 0:
            raise ResproutError(
                "rounds, increment and tolerance must be positive, "
                f"got {self.rounds!r}, {self.increment!r} and {self.tolerance!r}"
            )

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        unit = abs(run.do(Cut(-math.inf, self.score, try_only=True))["mean"]) or 1.0
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / self.rounds))
        if self.drop is not None:
            self._within_drop(run, unit, steps, self.drop)
            for budget in budgets:
                run.do(Arrive(budget))
            return
        tried = {b: run.do(Cut(math.inf, self.score, self.floor, b, try_only=True))["left"] for b in budgets}
        threshold = 0.0
        for budget in sorted(budgets, key=lambda b: -tried[b]):
            rounds = max(1, self.rounds // len(budgets))
            for i in range(1, rounds + 1):
                threshold += self.increment * unit
                at = threshold if i < rounds else math.inf
                cut = run.do(Cut(at, self.score, self.floor, budget))
                if cut["died"] or cut["met"]:
                    self._retrain(run, steps)
                if cut["met"]:
                    break
            run.do(Arrive(budget))

    def _within_drop(self, run: Run, unit: float, steps: int, drop: float) -> None:
        """Shrink until every larger step would lose more than `drop`."""
        least = run.do(Look())["validation"] - drop
        threshold, increment, left = 0.0, self.increment, self.rounds
        run.do(Mark("good"))
        while increment >= self.tolerance and left:
            threshold += increment
            cut = run.do(Cut(threshold * unit, self.score, self.floor))
            if not cut["died"]:
                if not cut["may_go"]:
                    return
                continue
            left -= 1
            self._retrain(run, steps)
            if run.do(Look())["validation"] >= least:
                run.do(Mark("good"))
            else:
                run.do(Rewind("good", masks=True))
                threshold, increment = threshold - increment, increment / 2

    def _retrain(self, run: Run, steps: int) -> None:
        for step in self.recover(steps):
            run.do(step)
