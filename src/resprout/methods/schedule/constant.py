"""Constant: the same value throughout.

Mocanu et al.: "Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science", Nature Communications 2018, arXiv:1707.04780 (a constant share of weights is replaced).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """`value`, always."""

    value: float
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, t: float) -> float:
        """Return `value`."""
        return self.value
