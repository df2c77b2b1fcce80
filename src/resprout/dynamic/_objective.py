"""What trains a gated network: its task, and gates that learn what fires; no method of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.kinds import Fidelity, Objective
from ..core.run import Run
from .gates import Gated, mass


@dataclass(frozen=True)
class FireTogether(Objective):
    """The task's loss, and `weight` times that of the gates (see `ftwt`)."""

    part: float
    weight: float
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 < self.part <= 1 and self.weight >= 0):
            raise ResproutError(f"part is a share in (0, 1] of the heat, and weight 0 or more, got {self}")

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum.

        Raises:
            ResproutError: a network without gates.
        """
        if not isinstance(run.model, Gated):
            raise ResproutError("ftwt trains the network that it has put gates into: Run(Ftwt()(model), ...)")
        return run.task.loss(model, batch) + self.weight * fired(run.model, self.part)


def fired(gated: Gated, part: float) -> Tensor:
    """Return the binary cross-entropy of the gates on the last batch: summed over filters, the mean over layers and samples."""
    each = []
    for name in gated.names:
        target = mass(gated.heat[name], part).float()
        each.append(
            F.binary_cross_entropy_with_logits(gated.logits[name].float(), target, reduction="none").sum(1).mean()
        )
    return torch.stack(each).mean()
