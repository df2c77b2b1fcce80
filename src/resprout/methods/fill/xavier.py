"""Xavier: uniform numbers of bound sqrt(6 / (fan_in + fan_out)).

Glorot, Bengio: "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ...core.kinds import Fidelity, Fill


@dataclass(frozen=True)
class Xavier(Fill):
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), with the fans of the whole tensor."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, weight: Tensor, anchor: Tensor | None, generator: Generator) -> Tensor:
        """Return uniform numbers."""
        bound = math.sqrt(6 / (weight[0].numel() + weight[:, 0].numel()))
        uniform = torch.rand(weight.shape, generator=generator, device=generator.device)
        return ((2 * uniform - 1) * bound).to(weight)
