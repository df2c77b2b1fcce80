"""Iterative magnitude pruning with rewinding: survivors go back not to the initialisation but to a little later.

Frankle, Dziugaite, Roy, Carbin: "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611. The optimizer starts
anew at each rewinding, as in the first author's later framework; its momentum then is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Recipe, Schedule, Score
from ...core.run import Run
from ...core.train import Optimizer
from ..allocate.global_ import Global
from ..recover.weight_rewind import WeightRewind
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._rewinding import rewinding
from .lth_imp import LthImp


@dataclass(frozen=True)
class ImpRewind(Recipe):
    """Train from the point "start", keep the network at the fraction `early` of training, and go back there each round.

    Each round removes `rate` of the survivors. All trainings, the dense network's included, are as long as `epochs` in all
    allow. With `early` = 0 it is the original lottery ticket, bit for bit.
    """

    epochs: float = 8
    early: float = 0.05
    rate: float = 0.2
    lr: Schedule = Cosine(0.1, 0.0, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 0
    key: ClassVar[str | None] = "imp-rewind"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 <= self.early < 1:
            raise ResproutError(f"early is a fraction of training in [0, 1), got {self.early:g}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        rounds = LthImp(self.epochs, self.rate, self.score, self.allocate, floor=self.floor)

        def retrain(to: str, span: tuple[float, float]) -> WeightRewind:
            return WeightRewind(to, self.lr, self.optimizer, span)

        rewinding(run, budgets, rounds, self.early, self.lr, self.optimizer, retrain)
