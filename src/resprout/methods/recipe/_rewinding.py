"""Rounds of iterative magnitude pruning that begin anew at a point early in training; not a method."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...core.budget import Budget
from ...core.kinds import Recover, Schedule
from ...core.run import Run
from ...core.steps import Mark, Rewind
from ...core.train import Optimizer, Train
from ._plan import plan
from .lth_imp import LthImp

Retrain = Callable[[str, tuple[float, float]], Recover]  # from a point, over the rest of a learning rate's course


def rewinding(
    run: Run,
    budgets: Sequence[Budget],
    rounds: LthImp,
    early: float,
    lr: Schedule,
    optimizer: Optimizer,
    retrain: Retrain,
    particles: int = 1,
) -> None:
    """Train from "start", keep the network at the fraction `early`, and let `rounds` go back there after every cut.

    Args:
        run: it has the point "start".
        budgets: the targets.
        rounds: rate, score, allocation, floor, and the epochs of all that is trained here, the dense network included.
        early: fraction of one training; 0 is the initialisation itself.
        lr, optimizer: of the training up to `early`.
        retrain: what trains from there to the end.
        particles: trainings that are one round.
    """
    plans = plan(run, budgets, rounds.score, rounds.allocate, rounds.floor)
    cuts, alive = 0, run.units.total
    while alive > min(plans.values()):
        alive, cuts = int(alive * (1 - rounds.rate)), cuts + 1
    cuts = max(1, cuts + len(budgets) - 1)
    per_epoch = run.task.steps_per_epoch
    whole = max(2, round(rounds.epochs * per_epoch / (early + (cuts + 1) * particles * (1 - early))))
    before = min(whole - 1, max(1, round(early * whole))) if early else 0
    share = before / whole
    run.do(Rewind("start"))
    if before:
        run.do(Train(before, lr, optimizer, span=(0.0, share)))
        run.do(Mark("early"))
    recover, each = retrain("early" if before else "start", (share, 1.0)), (whole - before) * particles
    for step in recover(each):
        run.do(step)
    replace(rounds, epochs=cuts * each / per_epoch, recover=recover)(run, budgets)
