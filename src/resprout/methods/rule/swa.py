"""Stochastic weight averaging: the weights at the end are the mean over the last part of training.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018,
arXiv:1803.05407. Its learning rate is constant meanwhile (`schedule/settling.py`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Rule
from ...core.norms import refresh
from ...core.run import Run


@dataclass(frozen=True)
class Swa(Rule):
    """Average over every `every`-th of the last fraction `share` of the steps, the last one included; masks stand still.

    The running mean is in `run.slots`. At the end the statistics of batch norms are measured anew.
    """

    share: float = 0.25
    every: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (self.share > 0 and self.every >= 1):
            raise ResproutError(f"share must be above 0 and every 1 step or more, got {self.share:g} and {self.every}")

    @torch.no_grad()
    def after_step(self, run: Run, step: int, steps: int) -> None:
        """Take the weights into the mean, if it is time."""
        left = steps - 1 - step
        if left >= max(1, round(self.share * steps)) or left % self.every:
            return
        count = run.slots.get("swa:", torch.zeros((), dtype=torch.int64)) + 1
        run.slots["swa:"] = count
        for name, weight in run.model.named_parameters():
            mean = run.slots.setdefault(f"swa:{name}", torch.zeros_like(weight, dtype=torch.float64))
            mean += (weight - mean) / int(count)

    @torch.no_grad()
    def end(self, run: Run, steps: int) -> None:
        """Put the mean in place."""
        for name, weight in run.model.named_parameters():
            weight.copy_(run.slots[f"swa:{name}"])
        refresh(run.model, run.task)
