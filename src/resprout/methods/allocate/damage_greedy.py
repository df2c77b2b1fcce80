"""Greedy fill: the most damaged layer gets all the new weights it can hold, then the next.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675 (its
baseline "greedy fill").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class DamageGreedy(Allocation):
    """`similarity` by weight name, as a `Priority` gives it; layers without one come last."""

    similarity: Mapping[str, float]
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the settled counts, filled up from the least similar layer on."""
        lower, upper = scores.bounds
        wishes: dict[str, float] = dict(lower)
        left = allowance - sum(prices[n] * lower[n] for n in scores)
        for n in sorted(scores, key=lambda n: self.similarity.get(n, math.inf)):
            wishes[n] += min(upper[n] - lower[n], max(0.0, left) / prices[n])
            left -= prices[n] * (wishes[n] - lower[n])
        return wishes
