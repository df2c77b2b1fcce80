"""Hard concrete: each unit passes or not by a draw from its score, which a penalty pulls towards closed.

Zhang, Jin, Zhang, Wang, Chen: "Effortless Efficiency: Low-Cost Pruning of Diffusion Models", arXiv:2412.02852 (EcoDiff; its
hard-discrete masks); the distribution of Louizos, Welling, Kingma: "Learning Sparse Neural Networks through L0 Regularization",
ICLR 2018, arXiv:1712.01312.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Gate, Slots
from ...core.masks import Masks


@dataclass(frozen=True)
class HardConcrete(Gate):
    """s = clamp(sigmoid((logit(u) + score) / temperature) (high - low) + low, 0, 1), u uniform; what passes is s >= 1/2.

    The gradient is that of s (straight through the step). The penalty is `weight` times the mean over tensors (or groups) of the
    mean |score| ("l1"), or of the chance not to be cut off at zero ("l0"). In the end the best scores pass.

    The paper's 0.5 stands beside an undivided norm of SDXL's 65,536 latents, which is 0.002 beside their root mean square.
    """

    begin: float = 3.0
    temperature: float = 0.83
    low: float = -0.1
    high: float = 1.1
    weight: float = 0.02
    norm: Literal["l1", "l0"] = "l1"
    key: ClassVar[str | None] = "ecodiff"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l0"):
            raise ResproutError(f"norm must be 'l1' or 'l0', got {self.norm!r}")
        if not (self.temperature > 0 and self.low < 0 and self.high > 1):
            raise ResproutError(
                f"temperature must be above 0, low below 0 and high above 1, so that what is drawn is cut off at both ends; "
                f"got {self.temperature:g}, {self.low:g} and {self.high:g}"
            )

    def start(self, worth: Tensor, generator: Generator) -> Tensor:
        """Nearly open."""
        return torch.full_like(worth, self.begin)

    def __call__(
        self, scores: Mapping[str, Tensor], keep: int, top: Callable[[Mapping[str, Tensor], int], Masks], state: Slots
    ) -> dict[str, Tensor]:
        """Return a draw; in use, the best."""
        if not state:
            return {n: m.to(scores[n]) for n, m in top(scores, keep).items()}
        return {n: self._draw(s) for n, s in scores.items()}

    def penalty(self, scores: Mapping[str, Tensor], t: float) -> Tensor | float:
        """Return the weighted norm of the scores."""
        shift = self.temperature * math.log(-self.low / self.high)
        each = [s.abs() if self.norm == "l1" else (s - shift).sigmoid() for s in scores.values()]
        return self.weight * torch.stack([e.mean() for e in each]).mean()

    def _draw(self, score: Tensor) -> Tensor:
        u = torch.rand_like(score).clamp(1e-6, 1 - 1e-6)
        soft = ((u.logit() + score) / self.temperature).sigmoid() * (self.high - self.low) + self.low
        soft = soft.clamp(0, 1)
        return (soft >= 0.5).to(soft) + (soft - soft.detach())
