"""Damage-proportional regrowth: new weights in proportion to (1 - similarity) * room of each layer.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675 (its
baseline "greedy proportional").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class DamageProportional(Allocation):
    """`similarity` by weight name, as a `Priority` gives it; layers without one return when the others are full."""

    similarity: Mapping[str, float]
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the settled counts plus each layer's share of what is left."""
        lower, upper = scores.bounds
        room = {n: upper[n] - lower[n] for n in scores}
        claims = {n: (1 - self.similarity.get(n, 1.0)) * room[n] for n in scores}
        left = allowance - sum(prices[n] * lower[n] for n in scores)
        shares = select.level(claims, left, dict.fromkeys(scores, 0), room, prices)
        return {n: lower[n] + shares[n] for n in scores}
