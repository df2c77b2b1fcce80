"""How many weights each budget allows, and what is cut by where nothing is said; not a method."""

from collections.abc import Sequence

from ...core.budget import Budget
from ...core.granularity import Units
from ...core.kinds import Allocation, Score
from ...core.run import Run
from ...core.steps import Meet
from ..score.magnitude import Magnitude
from ..score.oracle import Oracle
from ..score.taylor import Taylor


def plan(run: Run, budgets: Sequence[Budget], score: Score, allocate: Allocation, floor: int) -> dict[Budget, int]:
    """Return budget -> units alive if the network were cut to it now, the smallest first."""
    found = {b: run.do(Meet(b, score, allocate, floor=floor, try_only=True))["keep"] for b in budgets}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def usual(run: Run, score: Score | None) -> Score:
    """Return `score`, or what is usual: trials of whole layers, which are few; Taylor of channels and heads; magnitude."""
    if score is not None or not isinstance(run.granularity, Units):
        return score or Magnitude()
    return Oracle() if run.granularity.kind == "layer" else Taylor()
