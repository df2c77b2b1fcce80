"""Erdos-Renyi: a density in proportion to (n_in + n_out) / (n_in * n_out), blind to the kernel.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta: "Scalable training of artificial neural networks with adaptive
sparse connectivity inspired by network science", Nature Communications 2018, arXiv:1707.04780.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class Er(Allocation):
    """Counts in proportion to size * (n_in + n_out) / (n_in * n_out), full tensors aside."""

    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the claims; the core scales them, and fills no tensor beyond its size."""
        return {n: math.prod(s[2:]) * sum(s[:2]) for n, s in scores.shapes.items()}
