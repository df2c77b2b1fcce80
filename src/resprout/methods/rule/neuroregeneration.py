"""Neuroregeneration: cut gradually, and at each cut swap the smallest weights of every layer for dead ones of large gradient.

Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang, Mocanu: "Sparse Training via Boosting Pruning Plasticity with
Neuroregeneration", NeurIPS 2021, arXiv:2106.10404 (GraNet).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Rule, Schedule, Score
from ...core.run import Run
from ..allocate.global_ import Global
from ..schedule.cosine import Cosine
from ..score.gradient import Gradient
from ..score.magnitude import Magnitude
from ._move import swap
from .gradual import Gradual


@dataclass(frozen=True)
class Neuroregeneration(Rule):
    """Cut as `Gradual` does, then swap `fraction` of the living of each layer; after the last cut only swap, until `last`.

    `fraction` is over the whole of training. A swap of nothing leaves gradual pruning as it is.
    """

    schedule: Schedule
    budget: Budget | None = None
    until: float = 0.5
    last: float = 0.9
    every: int = 16
    fraction: Schedule = Cosine(0.5, 0.005)  # noqa: RUF009
    drop: Score = Magnitude()  # noqa: RUF009
    grow: Score = Gradient()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        self._cut()  # complains of the rest
        if not 0 <= self.last <= 1:
            raise ResproutError(f"last is a part of the training in [0, 1], got {self.last:g}")

    def _cut(self) -> Gradual:
        return Gradual(self.schedule, self.budget, self.until, self.every, self.drop, self.allocate, self.floor)

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Cut, then swap, if it is time."""
        self._cut().after_backward(run, step, steps)
        fraction = self.fraction(step / steps)
        if step > 0 and step % self.every == 0 and step < self.last * steps and fraction > 0:
            swap(run, self.drop, self.grow, fraction)
