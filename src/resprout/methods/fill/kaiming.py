"""Kaiming: normal numbers of standard deviation sqrt(2 / fan_in), fit for ReLU.

He, Zhang, Ren, Sun: "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
ICCV 2015, arXiv:1502.01852.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ...core.kinds import Fidelity, Fill


@dataclass(frozen=True)
class Kaiming(Fill):
    """N(0, 2 / fan_in), with the fan of the whole tensor, dead inputs included."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, weight: Tensor, anchor: Tensor | None, generator: Generator) -> Tensor:
        """Return normal numbers."""
        std = math.sqrt(2 / weight[0].numel())
        return (torch.randn(weight.shape, generator=generator, device=generator.device) * std).to(weight)
