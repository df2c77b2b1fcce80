"""One option for each item, so that what all cost stays within an allowance and what they lose is least: exact, by tables.

Kellerer, Pferschy, Pisinger: "Knapsack Problems", Springer 2004 (chapter 11: the multiple-choice knapsack problem).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import ResproutError

CELLS = 20_000


def choose(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], allowance: float, cells: int = CELLS
) -> list[int]:
    """Return which option each item takes.

    Costs are counted in whole cells of `allowance / cells`, rounded up, so that the allowance holds; whole numbers within an
    allowance of at most `cells` are exact. Of equal losses the cheaper option of a later item wins. What cannot be afforded at
    all is answered with the cheapest options.

    Args:
        costs: item -> option -> cost, not negative.
        losses: item -> option -> loss, finite.
        allowance: the most that all may cost together.
        cells: of the table.

    Raises:
        ResproutError: an item without options, or numbers that are none of these.
    """
    for cost, loss in zip(costs, losses, strict=True):
        if not len(cost) or len(cost) != len(loss) or min(cost) < 0 or not np.isfinite([*cost, *loss]).all():
            raise ResproutError("each item needs options, each with a cost of 0 or more and a finite loss")
    if sum(map(min, costs)) > allowance:
        return [int(np.lexsort((loss, cost))[0]) for cost, loss in zip(costs, losses, strict=True)]
    whole = allowance <= cells and all(float(c).is_integer() for cost in costs for c in cost)
    size = int(allowance) if whole else cells
    unit = 1.0 if whole else allowance / cells if allowance else 1.0
    least = np.zeros(size + 1)  # of the items so far, within each number of cells
    taken: list[np.ndarray] = []
    steps = [[int(np.ceil(c / unit - 1e-9)) for c in cost] for cost in costs]
    for cost, loss in zip(steps, losses, strict=True):
        best, pick = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=np.int32)
        for option in sorted(range(len(cost)), key=lambda o: (cost[o], loss[o])):
            if cost[option] <= size:
                trial = least[: size + 1 - cost[option]] + loss[option]
                better = trial < best[cost[option] :]
                best[cost[option] :][better], pick[cost[option] :][better] = trial[better], option
        least = best
        taken.append(pick)
    if not np.isfinite(least[size]):  # only by rounding up
        return [int(np.lexsort((loss, cost))[0]) for cost, loss in zip(costs, losses, strict=True)]
    at, options = size, []
    for cost, pick in zip(reversed(steps), reversed(taken), strict=True):
        options.append(int(pick[at]))
        at -= cost[options[-1]]
    return options[::-1]
