"""The steps of a course: notice which samples are right, and draw those that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import check_finite
from ..core.kinds import Schedule, Step
from ..core.run import Run, mix, synchronise
from ..core.task import Task
from ..core.train import Optimizer, Train
from ._kind import SampleScore, Seen
from .subset import Subset, choose, from_text, pair, to_text


def seen(run: Run) -> Seen:
    """Return what scores may know of a run that serves all its samples."""
    count = len(pair(run.task)[1])
    history = [from_text(record["right"], count) for record in run.journal if "right" in record]
    return Seen(run.model, run.task, history, mix(run.seed, "samples", run.trained))


@dataclass(frozen=True)
class Notice(Step):
    """Note which training samples the network as it stands classifies rightly."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Look."""
        return {"right": to_text(seen(run).said.right)}


@dataclass(frozen=True)
class Draw(Step):
    """Score all training samples with the network as it stands, and note the share that is kept (see `Subset`)."""

    score: SampleScore
    share: float
    offset: float = 0.0

    def __call__(self, run: Run) -> dict[str, Any]:
        """Score and choose.

        Raises:
            ResproutError: a score that is not finite.
        """
        scores = self.score(seen(run)).detach().float()
        check_finite(float(scores.sum()), f"the scores of samples by {self.score!r}")
        synchronise([scores])
        return {"kept": to_text(choose(scores, self.share, self.offset))}


def served(task: Task, record: Mapping[str, Any]) -> Subset:
    """Return the part of `task` that a `Draw` has noted."""
    return Subset(task, from_text(record["kept"], len(pair(task)[1])), record["trained"])


def teach(run: Run, epochs: tuple[int, int, int], lr: Schedule, optimizer: Optimizer, looking: bool = False) -> None:
    """Train from epoch `epochs[0]` to `epochs[1]` of `epochs[2]`, each a pass over what is served; noticing, epoch by epoch."""
    begin, end, total = epochs
    for a, b in ((e, e + 1) for e in range(begin, end)) if looking else ((begin, end),):
        if b > a:
            run.do(Train((b - a) * run.task.steps_per_epoch, lr, optimizer, span=(a / total, b / total)))
            if looking:
                run.do(Notice())
