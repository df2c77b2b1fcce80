"""DARE: drop each difference with a fixed probability, and rescale the others so that the mean stays.

Yu, Yu, Yu, Huang, Li: "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024,
arXiv:2311.03099. Each difference is dropped by the toss of a coin, as in the paper: counts are not exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor

from ..core.errors import ResproutError, nearest
from ..core.kinds import Fidelity
from ._kind import DeltaPruner, Pair
from .delta import Tensors

Unit = Literal["weight", "row", "column"]


def check_drop(drop: float) -> None:
    """Say whether differences can be dropped with this probability.

    Raises:
        ResproutError: it lies outside [0, 1).
    """
    if not 0 <= drop < 1:
        raise ResproutError(f"differences are dropped with a probability in [0, 1), got {drop:g}")


def dropped(delta: Tensor, drop: float, generator: Generator, unit: Unit = "weight") -> Tensor:
    """Return the difference with each weight, or row, or column of it, zero with probability `drop`; nothing is rescaled.

    Raises:
        ResproutError: a probability outside [0, 1), or an unknown unit.
    """
    check_drop(drop)
    if unit not in get_args(Unit):
        raise nearest(str(unit), get_args(Unit), "unit")
    rest = (1,) * (delta.dim() - 2)
    shape = {"weight": delta.shape, "row": (len(delta), 1, *rest), "column": (1, *delta.shape[1:2], *rest)}[unit]
    return delta * (torch.rand(shape, generator=generator) >= drop).to(delta)


@dataclass(frozen=True)
class Dare(DeltaPruner):
    """Keep each with probability 1 - drop, divided by 1 - drop."""

    drop: float = 0.9
    unit: Unit = "weight"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, pair: Pair) -> Tensors:
        """Drop and rescale."""
        g = pair.generator("drop", 0)
        return {n: dropped(d, self.drop, g, self.unit) / (1 - self.drop) for n, d in pair.delta.items()}
