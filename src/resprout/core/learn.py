"""Learn: train a network and the scores of its units together, then keep the units that score best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .budget import Budget
from .errors import ResproutError
from .gated import Gated
from .kinds import Allocation, Gate, Rule, Schedule, Step
from .run import Run
from .train import Train


@dataclass(frozen=True)
class Learn(Step):
    """Train as `train` says, with masks that `gate` learns; in the end exactly `keep` of the run's units are alive.

    With a `budget` it is not `keep` units in the end, but the most that the budget allows: those whose scores are best.
    Without `weights` the network's own tensors are frozen meanwhile, in evaluation mode, and only masks are learned.

    Between the parts `begin` and `end` of the training the units that pass become fewer, from all that are alive to `keep`, along
    `way` (a schedule from 0 to 1). Scores learn `train.optimizer.times` as fast as weights.
    """

    train: Train
    gate: Gate
    keep: int
    way: Schedule
    begin: float
    end: float
    allocate: Allocation
    weights: bool = True
    budget: Budget | None = None

    def __call__(self, run: Run) -> dict[str, Any]:
        """Train, and choose.

        Raises:
            ResproutError: more units than are alive, or a `train` that moves masks, tunes a part or goes back to its best.
        """
        if self.train.best or self.train.tune is not None or type(self.train.rule) is not Rule:
            raise ResproutError("Learn trains all of the network under its gate: leave out best, tune and rule")
        alive = run.units.alive
        if not 0 <= self.keep <= alive:
            raise ResproutError(f"keep must be between 0 and the {alive:,} units alive, got {self.keep:,}")

        def passing(t: float) -> int:
            way = self.way((t - self.begin) / max(self.end - self.begin, 1e-9))
            return alive - round(way * (alive - self.keep))

        with self.train.under_way(run, lambda: Gated(run, self.gate, passing, self.allocate, self.weights)) as (
            facts,
            part,
        ):
            assert isinstance(part, Gated)
            found = part.chosen
            masks = found(self.keep) if self.budget is None else self.budget.keep(run.model, found, 0, alive)
        return facts | run.set_masks(masks)
