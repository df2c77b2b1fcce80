"""Moves that several rules make; not a method."""

from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.granularity import Weight
from ...core.kinds import Allocation, Score
from ...core.masks import Masks
from ...core.run import Run
from ...core.steps import chooser

CLOSE = 0.997  # of a budget's limit: nearer, a correction is not worth a move
LATE = 0.9  # the part of training after which weights no longer move far


def cut(
    run: Run, keep: int | None, score: Score, allocate: Allocation, floor: int, budget: Budget | None = None
) -> None:
    """Prune to `keep` units, at the prices of `budget`; or (None) to the most that it allows."""
    prices, units = None if budget is None else budget.prices(run.model, run.masks), run.units
    choose, alive = chooser(run.probe(), score, allocate, floor, prices, run.granularity), units.alive
    if keep is not None:
        if keep < alive:  # else nothing need be scored
            run.set_masks(choose(keep))
    elif budget is not None:
        least = sum(min(floor, count) for count in units.counts.values())
        run.set_masks(budget.keep(run.model, choose, least, alive))


def drifted(run: Run, budget: Budget | None) -> bool:
    """Whether training has moved the cost of the network, as measured now, away from the budget's limit."""
    if budget is None:
        return False
    cost = budget.measured(run.model, run.masks)
    return not budget.met(cost) or budget.share(cost) < CLOSE


def weights_only(run: Run, who: str) -> None:
    """Refuse a run of rows, blocks, channels or any other units, which `who` would break up.

    Raises:
        ResproutError: it is one.
    """
    if run.granularity != Weight():
        raise ResproutError(f"{who} moves single weights: give granularity='weight'")


def swap(run: Run, drop: Score, grow: Score, fraction: float) -> None:
    """In every tensor, drop the worst `fraction` of the living and wake as many of the best dead, at zero.

    Raises:
        ResproutError: a run whose units are not weights.
    """
    weights_only(run, "a swap of the worst for the best")
    probe = run.probe()
    worth, wish = drop(probe), grow(probe)
    new: dict[str, Tensor] = {}
    for name, mask in run.masks.items():
        alive = run.masks.counts[name]
        moved = min(round(fraction * alive), mask.numel() - alive)
        stay = select.top({name: worth[name]}, alive - moved, Masks({name: mask}))
        born = select.top({name: wish[name]}, moved, ~stay)
        new |= stay | born
    run.set_masks(Masks(new))
