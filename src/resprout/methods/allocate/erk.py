"""Erdos-Renyi-kernel: a density in proportion to sum(shape) / prod(shape), kernel included.

Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class Erk(Allocation):
    """Counts in proportion to the sum of the shape, full tensors aside."""

    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the claims; the core scales them, and fills no tensor beyond its size."""
        return {n: sum(s) for n, s in scores.shapes.items()}
