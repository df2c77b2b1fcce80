"""Global with a minimum threshold (MT): one ranking over all tensors, after each has kept the best few of its own.

Gupta, Camci, Keneta, Vaidyanathan, Kanodia, Foo, Wu, Lin: "Is Complexity Required for Neural Network Pruning? A Case
Study on Global Magnitude Pruning", arXiv:2209.14624 (its MT; the released code keeps 0.05 % of each layer).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.errors import check_sparsity
from ...core.kinds import Allocation, Fidelity, Scores
from ...core.masks import Masks


@dataclass(frozen=True)
class GlobalMin(Allocation):
    """As "global", but each tensor keeps the fraction `least` of its weights, rounded up: the others pay for it.

    Where all of these together cost more than is allowed, they are cut in proportion.
    """

    least: float = 0.0005
    fidelity: ClassVar[Fidelity] = "paper-checked"
    key: ClassVar[str | None] = "global-mp"

    def __post_init__(self) -> None:
        check_sparsity(self.least, "least")

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> select.Picks:
        """Return how many of each tensor's weights are its own best few or among the best of the rest."""
        lower, upper = scores.bounds
        kept = {}
        for name, size in scores.sizes.items():
            few = min(max(math.ceil(self.least * size), lower[name]), upper[name]) - lower[name]
            among = None if scores.among is None else Masks({name: scores.among[name]})
            kept |= select.top({name: scores[name]}, few, among)
        first = Masks(kept)
        rest = ~first if scores.among is None else scores.among - first
        settled = {n: lower[n] + k for n, k in first.counts.items()}
        picks = select.greedy(scores, prices, allowance, rest, settled, scores.order)
        picks.chosen = picks.chosen | first
        return picks
