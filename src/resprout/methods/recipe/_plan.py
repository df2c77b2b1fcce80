"""How many weights each budget allows; not a method."""

from collections.abc import Sequence

from ...core.budget import Budget
from ...core.kinds import Allocation, Score
from ...core.run import Run
from ...core.steps import Meet


def plan(run: Run, budgets: Sequence[Budget], score: Score, allocate: Allocation, floor: int) -> dict[Budget, int]:
    """Return budget -> units alive if the network were cut to it now, the smallest first."""
    found = {b: run.do(Meet(b, score, allocate, floor=floor, try_only=True))["keep"] for b in budgets}
    return dict(sorted(found.items(), key=lambda item: item[1]))
