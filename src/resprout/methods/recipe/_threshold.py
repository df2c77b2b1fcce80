"""Cutting the units that score below a threshold, as a step; not a method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Score, Step
from ...core.probe import Probe
from ...core.run import Run
from ...core.steps import chooser
from ..allocate.global_ import Global
from ..score._rows import makers, rows


@dataclass(frozen=True)
class Cut(Step):
    """Remove the living units that score below `threshold`, but leave each group `floor` of them.

    With a `budget`, no more than it asks for, the lowest first. With `try_only` nothing changes.
    """

    threshold: float
    score: Score
    floor: int = 1
    budget: Budget | None = None
    try_only: bool = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """Cut; the facts are the units left, how many of them may still go, their mean score, and if the budget is met.

        Raises:
            BudgetError: an infinite threshold that does not meet the budget either.
            ResproutError: a run whose units are not channels, heads or layers.
        """
        probe, alive = run.probe(), run.units
        scores = unit_scores(probe, self.score)
        if not set(alive) <= set(scores):
            raise ResproutError("thresholds are for whole channels: give granularity='channel' (or 'head')")
        living = torch.cat([scores[n][a.cpu()] for n, a in alive.items()])
        least = sum(min(self.floor, count) for count in alive.counts.values())
        keep = max(least, int((living >= self.threshold).sum()))
        choose = chooser(probe, self.score, Global(), self.floor, granularity=run.granularity)
        masks = choose(keep)
        met = self.budget is None or self.budget.met(self.budget.cost(run.model, masks))
        if self.budget is not None and (met or keep == least):
            masks, met = self.budget.keep(run.model, choose, keep, alive.alive), True
        units = run.granularity.units(masks, run.groups).alive
        facts = {"left": units, "may_go": units - least, "mean": float(living.mean()), "met": met}
        return facts if self.try_only else facts | run.set_masks(masks)


def unit_scores(probe: Probe, score: Score) -> dict[str, Tensor]:
    """Return group -> the score of each unit (units,): the mean over the rows of the weights that make it."""
    numbers = {
        n: r.mean(1).cpu() for n, r in rows(probe, {n: select.dense(s) for n, s in score(probe).items()}).items()
    }
    found: dict[str, list[Tensor]] = {}
    for group, slot in makers(probe):
        found.setdefault(group.name, []).append(numbers[slot.parameter][slot.index].mean(1))
    return {name: torch.stack(parts).mean(0) for name, parts in found.items()}
