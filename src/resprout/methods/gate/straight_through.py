"""Straight through: the best units pass whole, and scores rise where training moves weights away from zero (movement pruning).

Sanh, Wolf, Rush: "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, arXiv:2005.07683; with blocks, channels or
heads as units Lagunas, Charlaix, Sanh, Rush: "Block Pruning For Faster Transformers", EMNLP 2021, arXiv:2109.04838.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ...core.kinds import Fidelity, Gate, Slots
from ...core.masks import Masks


@dataclass(frozen=True)
class StraightThrough(Gate):
    """The best `keep` pass whole, the others not at all; the gradient goes straight through: dL/dS = dL/d(what passes) * w.

    `weight` times the mean of sigmoid(S) is added to the loss, times the progress (the soft variant's penalty; 0 is the hard
    one). What does not pass goes on receiving gradients, as in the paper.
    """

    weight: float = 0.0
    key: ClassVar[str | None] = "movement"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def start(self, worth: Tensor, generator: Generator) -> Tensor:
        """Zero."""
        return torch.zeros_like(worth)

    def __call__(
        self, scores: Mapping[str, Tensor], keep: int, top: Callable[[Mapping[str, Tensor], int], Masks], state: Slots
    ) -> dict[str, Tensor]:
        """Return the indicator of the best."""
        chosen = top(scores, keep)
        return {n: chosen[n].to(s) + (s - s.detach()) for n, s in scores.items()}

    def penalty(self, scores: Mapping[str, Tensor], t: float) -> Tensor | float:
        """Return the weighted mean of sigmoid(S)."""
        if not self.weight:
            return 0.0
        return self.weight * t * torch.cat([s.flatten() for s in scores.values()]).sigmoid().mean()
