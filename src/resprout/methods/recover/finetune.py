"""Fine-tune: go on training at a small learning rate.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Objective, Recover, Rule, Schedule, Step, Tune
from ...core.train import Optimizer, Train
from ..schedule.constant import Constant


@dataclass(frozen=True)
class Finetune(Recover):
    """AdamW at 3e-4, as arXiv:2511.11675 does; keep the best state by validation accuracy in `looks` looks."""

    lr: Schedule = Constant(3e-4)  # noqa: RUF009
    optimizer: Optimizer = Optimizer("adamw")  # noqa: RUF009
    rule: Rule = Rule()  # noqa: RUF009
    looks: int = 0
    objective: Objective | None = None
    tune: Tune | None = None
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return one Train."""
        best = self.looks > 0
        return (
            Train(steps, self.lr, self.optimizer, self.rule, (0.0, 1.0), self.looks, best, self.objective, self.tune),
        )
