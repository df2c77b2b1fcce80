"""Learning-rate rewinding: keep the weights, and retrain with the original learning-rate schedule from its start.

Renda, Frankle, Carbin: "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020, arXiv:2003.02389.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Recover, Schedule, Step
from ...core.train import Optimizer, Train
from ..schedule.cosine import Cosine


@dataclass(frozen=True)
class LrRewind(Recover):
    """`lr` and `optimizer` are those of the original training."""

    lr: Schedule = Cosine(0.1, 0.0, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return one Train over the whole schedule."""
        return (Train(steps, self.lr, self.optimizer),)
