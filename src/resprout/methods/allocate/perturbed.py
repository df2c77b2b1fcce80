"""Perturbed: what another allocation wishes, each tensor's share more or less by chance; one of a pool of candidates.

Huang, Zhang, Sun, Sun: "Distributed Pruning Towards Tiny Neural Networks in Federated Learning", ICDCS 2023, arXiv:2212.01977
(FedTiny, whose candidates have layer densities with noise).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.kinds import Allocation, Fidelity, Scores
from .uniform import Uniform


@dataclass(frozen=True)
class Perturbed(Allocation):
    """Each wish times exp(`spread` * a normal number of `seed`); the core scales them to the total."""

    allocate: Allocation = Uniform()  # noqa: RUF009
    spread: float = 0.5
    seed: int = 0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the wishes."""
        wishes = self.allocate(scores, prices, allowance)
        noise = torch.randn(len(wishes), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return {n: wish * math.exp(self.spread * z) for (n, wish), z in zip(wishes.items(), noise, strict=True)}
