"""Weight rewinding: put the surviving weights back to their values early in training, and train again from there.

Frankle, Dziugaite, Roy, Carbin: "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020,
arXiv:1912.05671; compared with fine-tuning in Renda, Frankle, Carbin, ICLR 2020, arXiv:2003.02389.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Recover, Schedule, Step
from ...core.steps import Rewind
from ...core.train import Optimizer, Train
from ..schedule.cosine import Cosine


@dataclass(frozen=True)
class WeightRewind(Recover):
    """Rewind to the point `to` ("start" is the initialisation), under the masks of now.

    `span` is the part of the learning rate's course that follows that point: (0.05, 1) if it lay at a twentieth of training.
    """

    to: str = "start"
    lr: Schedule = Cosine(0.1, 0.0, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    span: tuple[float, float] = (0.0, 1.0)
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return Rewind, then Train."""
        return (Rewind(self.to), Train(steps, self.lr, self.optimizer, span=self.span))
