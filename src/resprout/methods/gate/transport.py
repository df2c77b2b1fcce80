"""Transport: what passes is an optimal transport plan between the scores and the budget, which hardens by itself.

Li, van Gemert, Hoefler, Moons, Eleftheriou, Verhoef: "Differentiable Transportation Pruning", ICCV 2023, arXiv:2307.08483.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Gate, Slots
from ...core.masks import Masks


@dataclass(frozen=True)
class Transport(Gate):
    """n units of mass 1/n go to "keep", which takes k/n, or to "leave"; each step starts from the last plan (the proximal trick).

    A plan is odds: o_i <- o_i exp((c_leave - c_keep) / eps) by the costs of unit i, the squared distances of its score from 1 and
    from 0; then what passes is o_i z / (1 + o_i z), with z such that the sum is exactly k. The paper makes one sweep of Sinkhorn
    instead, after which columns are exact and rows nearly.
    """

    eps: float = 1.0
    spread: float = 0.3
    key: ClassVar[str | None] = "dtp-transport"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ResproutError(f"eps, the temperature of the plan, must be above 0, got {self.eps:g}")

    def start(self, worth: Tensor, generator: Generator) -> Tensor:
        """One half, and a little as the norms rank the units (the paper does not say)."""
        return 0.5 + self.spread * (worth - 0.5)

    def __call__(
        self, scores: Mapping[str, Tensor], keep: int, top: Callable[[Mapping[str, Tensor], int], Masks], state: Slots
    ) -> dict[str, Tensor]:
        """Return the plan's column "keep", n times; its sum is `keep`."""
        flat = torch.cat([s.flatten() for s in scores.values()])
        sizes = [s.numel() for s in scores.values()]
        if not state:  # in use: the plan's end
            return {n: m.to(scores[n]) for n, m in top(scores, keep).items()}
        prior = torch.cat([state[n].flatten() for n in scores])
        odds = prior + (2 * flat - 1) / self.eps  # (s^2 - (1 - s)^2) / eps, as logarithms
        passing = (odds + shift(odds.detach(), keep)).sigmoid()
        passing = passing + (keep - passing.sum()) * _slack(passing.detach())
        for n, part in zip(scores, odds.detach().split(sizes), strict=True):
            state[n].copy_(part.view_as(state[n]))
        return {n: part.view_as(scores[n]) for n, part in zip(scores, passing.split(sizes), strict=True)}


def shift(odds: Tensor, keep: int) -> Tensor:
    """Return z with sum(sigmoid(odds + z)) = keep, by bisection."""
    low, high = -odds.max() - 40, -odds.min() + 40
    for _ in range(60):
        middle = (low + high) / 2
        over = (odds.double() + middle).sigmoid().sum() > keep
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (low + high) / 2


def _slack(passing: Tensor) -> Tensor:
    """How the sum's remainder is shared: by d sigmoid, so that the sum stays `keep` and its gradient is the plan's."""
    room = passing * (1 - passing)
    return room / room.sum().clamp(min=1e-30)
