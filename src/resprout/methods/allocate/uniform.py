"""Uniform: the same density in every tensor.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878
(one sparsity for all layers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class Uniform(Allocation):
    """Counts in proportion to the sizes."""

    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the sizes; the core scales them to the total."""
        return dict(scores.sizes)
