"""SET: every few steps the smallest weights of each layer are replaced by as many random new ones.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta: "Scalable training of artificial neural networks with adaptive sparse
connectivity inspired by network science", Nature Communications 2018, arXiv:1707.04780.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Rule
from ...core.run import Run
from ..score.magnitude import Magnitude
from ..score.random import Random
from ._move import swap


@dataclass(frozen=True)
class Set(Rule):
    """Replace the fraction `zeta` every `every` optimizer steps (the paper: after each epoch), until the last move."""

    zeta: float = 0.3
    every: int = 100
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Swap, if it is time."""
        if step > 0 and step % self.every == 0:
            swap(run, Magnitude(), Random(), self.zeta)
