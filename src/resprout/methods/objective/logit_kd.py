"""Distil the logits: the dense network's softened answers, KL(dense || pruned), instead of the labels or beside them.

Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", NeurIPS 2014 workshop, arXiv:1503.02531; alone and
at temperature 1 it retrains the pruned models of Sreenivas et al.: "LLM Pruning and Distillation in Practice: The Minitron
Approach", arXiv:2408.11796.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Objective
from ...core.outputs import outputs, taught
from ...core.run import Run
from ...numerics.distance import kl


@dataclass(frozen=True)
class LogitKd(Objective):
    """(1 - task) T^2 KL at temperature T, and `task` of the task's own loss; Hinton's images take T = 4, task = 0.1 or so."""

    temperature: float = 1.0
    task: float = 0.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 <= self.task <= 1 and self.temperature > 0):
            raise ResproutError(f"task is a share in [0, 1] and temperature above 0, got {self}")

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss."""
        dense = taught(run, batch)[""]
        with outputs(run.model) as own:
            loss = run.task.loss(model, batch)
        soft = self.temperature**2 * kl(dense, own[""], self.temperature)
        return (1 - self.task) * soft + self.task * loss if self.task else soft
