"""RigL: every few steps the smallest weights of each layer make room for the dead ones with the largest gradients.

Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134
(Algorithm 1: delta T = 100, alpha = 0.3 with cosine decay, the last move at three quarters of training).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Rule, Schedule, Score
from ...core.run import Run
from ..schedule.cosine import Cosine
from ..score.gradient import Gradient
from ..score.magnitude import Magnitude
from ._move import swap


@dataclass(frozen=True)
class RigL(Rule):
    """Swap `fraction` of the living every `every` steps until the fraction `until` of training."""

    every: int = 100
    until: float = 0.75
    fraction: Schedule = Cosine(0.3, 0.0)  # noqa: RUF009
    drop: Score = Magnitude()  # noqa: RUF009
    grow: Score = Gradient()  # noqa: RUF009
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Swap, if it is time."""
        t = step / (self.until * steps)
        if step > 0 and step % self.every == 0 and t < 1:
            swap(run, self.drop, self.grow, self.fraction(t))
