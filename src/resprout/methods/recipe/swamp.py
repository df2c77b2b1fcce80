"""SWAMP: iterative magnitude pruning with rewinding, where each round is the mean of several particles, each a mean itself.

Choi, Lee, Nam, Lee: "SWAMP: Sparse Weight Averaging with Multiple Particles for Iterative Magnitude Pruning", ICLR 2024,
arXiv:2305.14852. Its SWAMP+, with a single particle in the first rounds, is not here.
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
from ..recover.particles import Particles
from ..schedule.settling import Settling
from ..score.magnitude import Magnitude
from ._rewinding import rewinding
from .lth_imp import LthImp


@dataclass(frozen=True)
class Swamp(Recipe):
    """As `ImpRewind`, with `particles` trainings a round that share its `epochs`; `average` is the part that SWA averages.

    At equal `epochs` each particle trains for a fraction of what a single network would; the paper gives each a full
    training, so that a fair comparison with it takes `particles` times the epochs.
    """

    epochs: float = 8
    early: float = 0.05
    particles: int = 4
    average: float = 0.25
    rate: float = 0.2
    lr: Schedule = Settling(0.1, 0.05, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 0
    key: ClassVar[str | None] = "swamp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 <= self.early < 1:
            raise ResproutError(f"early is a fraction of training in [0, 1), got {self.early:g}")
        self._retrain("start", (0.0, 1.0))  # complains of the rest

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        rounds = LthImp(self.epochs, self.rate, self.score, self.allocate, floor=self.floor)
        rewinding(run, budgets, rounds, self.early, self.lr, self.optimizer, self._retrain, self.particles)

    def _retrain(self, to: str, span: tuple[float, float]) -> Particles:
        return Particles(to, self.particles, self.lr, self.optimizer, span, self.average)
