"""SWAMP: iterative magnitude pruning with rewinding, where each round is the mean of several particles, each a mean itself.

Choi, Lee, Nam, Lee: "SWAMP: Sparse Weight Averaging with Multiple Particles for Iterative Magnitude Pruning", ICLR 2024,
arXiv:2305.14852. Its SWAMP+, with a single particle in the first rounds, is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity, Schedule
from ...core.run import Run
from ..recover.particles import Particles
from ..schedule.settling import Settling
from ._rewinding import Rewinding


@dataclass(frozen=True)
class Swamp(Rewinding):
    """As `ImpRewind`, with `particles` trainings a round that share its `epochs`; `average` is the part that SWA averages.

    At equal `epochs` each particle trains for a fraction of what a single network would; the paper gives each a full
    training, so that a fair comparison with it takes `particles` times the epochs.
    """

    lr: Schedule = Settling(0.1, 0.05, warmup=0.05)  # noqa: RUF009
    particles: int = 4
    average: float = 0.25
    key: ClassVar[str | None] = "swamp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._retrain("start", (0.0, 1.0))  # complains of the rest

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        self._walk(run, budgets, self._retrain, self.particles)

    def _retrain(self, to: str, span: tuple[float, float]) -> Particles:
        return Particles(to, self.particles, self.lr, self.optimizer, span, self.average)
