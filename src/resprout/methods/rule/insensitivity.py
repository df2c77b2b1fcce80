"""Insensitivity: weights whose gradient is small decay, w - lambda * w * max(0, 1 - |dL/dw|); the others are left alone.

Tartaglione, Bragagnolo, Fiandrotti, Grangetto: "LOss-Based SensiTivity rEgulaRization: towards deep sparse neural networks",
Neural Networks 2022, arXiv:2011.09905 (LOBSTER). The decay is that of the weight before the step, as in the paper's formula.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.kinds import Fidelity, Rule
from ...core.run import Run


@dataclass(frozen=True)
class Insensitivity(Rule):
    """Decay by `strength` (lambda) at every step, besides what the optimizer does; the learning rate has no part in it."""

    strength: float = 1e-4
    fidelity: ClassVar[Fidelity] = "identity-checked"

    @torch.no_grad()
    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Decay; the optimizer then adds its step, which does not look at the weights."""
        for weight in run.weights().values():
            if weight.grad is not None:
                weight.mul_(1 - self.strength * (1 - weight.grad.abs()).clamp(min=0))
