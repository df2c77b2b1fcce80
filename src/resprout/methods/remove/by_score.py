"""Cut by a score, once: what a score and an allocation say, as a remover, so that any recovery can follow it.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv:1506.02626.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Remover, Score
from ...core.run import Run
from ...core.steps import Meet


@dataclass(frozen=True)
class ByScore(Remover):
    """The units that score lowest leave; `floor` of each tensor (or group) stay."""

    score: Score
    allocate: Allocation
    floor: int = 0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Cut to the most units that the budget allows."""
        return Meet(budget, self.score, self.allocate, floor=self.floor)(run)
