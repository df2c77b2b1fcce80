"""Moves that several rules make; not a method."""

from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.granularity import Weight
from ...core.kinds import Allocation, Score
from ...core.masks import Masks
from ...core.run import Run
from ...core.steps import pruned


def cut(run: Run, keep: int, score: Score, allocate: Allocation, floor: int, budget: Budget | None = None) -> None:
    """Prune to `keep` weights, or with a `budget` to the most that it allows."""
    probe = run.probe()

    def choose(keep: int) -> Masks:
        return pruned(probe, keep, score, allocate, Weight(), floor)

    alive = run.masks.alive
    if budget is None:
        run.set_masks(choose(min(keep, alive)))
    else:
        least = sum(min(floor, count) for count in run.masks.counts.values())
        run.set_masks(budget.keep(run.model, choose, least, alive))


def swap(run: Run, drop: Score, grow: Score, fraction: float) -> None:
    """In every tensor, drop the worst `fraction` of the living and wake as many of the best dead, at zero."""
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
