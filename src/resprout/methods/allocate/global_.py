"""Global: one ranking over all tensors, with no correction.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626 (one threshold for all layers); named "global" in Blalock et al., arXiv:2003.03033.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class Global(Allocation):
    """The best weights per price win, wherever they are; a tensor may lose all (use `floor` where it must not)."""

    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> select.Picks:
        """Return how many of each tensor's weights are among the best."""
        settled = None if scores.settled is None else scores.settled.counts
        return select.greedy(scores, prices, allowance, scores.among, settled, scores.order)
