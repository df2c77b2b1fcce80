"""LAMP: a score's square over the squares of all in its layer that would outlive it, then one ranking over all layers.

Lee, Park, Mo, Ahn, Shin: "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, arXiv:2010.07611.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core import select
from ...core.kinds import Allocation, Fidelity, Scores


def lamp(scores: Tensor) -> Tensor:
    """Return the LAMP scores of one tensor from the largest down; equal scores outlive each other in turn.

    Negative scores count as zero: the paper has none.
    """
    squares = scores.clamp(min=0).sort(descending=True).values.double().square_()
    return squares.div_(squares.cumsum(0).clamp_(min=1e-300)).float()


@dataclass(frozen=True)
class Lamp(Allocation):
    """The best LAMP scores per price win; which weights of a tensor stay is then up to the original score.

    The largest of a layer has the score 1, so none dies before all others are down to one weight.
    """

    fidelity: ClassVar[Fidelity] = "paper-checked"
    key: ClassVar[str | None] = "lamp"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return how many of each tensor's weights are among the best."""
        # Only counts are asked for, so the scores stay in sorted order and no position is kept.
        settled = None if scores.settled is None else scores.settled.counts
        return dict(select.greedy({n: lamp(scores.competing(n)) for n in scores}, prices, allowance, None, settled))
