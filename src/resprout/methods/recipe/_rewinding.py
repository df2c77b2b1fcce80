"""Rounds of iterative magnitude pruning that begin anew at a point early in training; not a method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Recipe, Recover, Schedule, Score
from ...core.run import Run
from ...core.steps import Mark, Rewind
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._plan import plan
from .lth_imp import LthImp

Retrain = Callable[[str, tuple[float, float]], Recover]  # from a point, over the rest of a learning rate's course


@dataclass(frozen=True)
class Rewinding(Recipe):
    """Train from the point "start", keep the network at the fraction `early` of training, and go back there each round.

    Each round removes `rate` of the survivors. All trainings, the dense network's included, are as long as `epochs` in all
    allow.
    """

    epochs: float = 8
    early: float = 0.05
    rate: float = 0.2
    lr: Schedule = Cosine(0.1, 0.0, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.early < 1:
            raise ResproutError(f"early is a fraction of training in [0, 1), got {self.early:g}")
        LthImp(self.epochs, self.rate)  # complains of these

    def _walk(self, run: Run, budgets: Sequence[Budget], retrain: Retrain, particles: int = 1) -> None:
        """Walk, the largest budget first; `retrain` makes a round of as many trainings as `particles` says."""
        plans = plan(run, budgets, self.score, self.allocate, self.floor)
        cuts, alive = 0, run.units.total
        while alive > min(plans.values()):
            alive, cuts = int(alive * (1 - self.rate)), cuts + 1
        cuts = max(1, cuts + len(budgets) - 1)
        per_epoch = run.task.steps_per_epoch
        whole = max(2, round(self.epochs * per_epoch / (self.early + (cuts + 1) * particles * (1 - self.early))))
        before = min(whole - 1, max(1, round(self.early * whole))) if self.early else 0
        share = before / whole
        run.do(Rewind("start"))
        if before:
            run.do(Train(before, self.lr, self.optimizer, span=(0.0, share)))
            run.do(Mark("early"))
        recover, each = retrain("early" if before else "start", (share, 1.0)), (whole - before) * particles
        for step in recover(each):
            run.do(step)
        LthImp(cuts * each / per_epoch, self.rate, self.score, self.allocate, recover, self.floor)(run, budgets)
