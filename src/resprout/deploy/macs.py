"""The budget in multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..core.budget import Budget
from ..core.masks import Masks
from .target import program_of

if TYPE_CHECKING:
    from .target import Target

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Macs(Budget):
    """One sample takes at most this many multiply-adds with weights that are alive.

    Attributes:
        count: the multiply-adds.
        target: the network.
    """

    count: int
    graph: ClassVar[bool] = True
    target: Target | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Macs | None:
        """As in "5M macs" or "12000 macs"."""
        unit, word = ("", unit) if not word else (unit, word)
        return cls(round(number * UNITS[unit])) if word in ("mac", "macs") and unit in UNITS else None

    @property
    def limit(self) -> float:
        """The multiply-adds."""
        return self.count

    def on(self, target: Target) -> Macs:
        """With the target's operations."""
        return replace(self, target=target)

    def prices(self, model: nn.Module, masks: Masks) -> Mapping[str, float]:
        """The positions at which a weight is used, and next to nothing for one that the program does not use."""
        macs = program_of(self, self.target).macs()
        return {n: float(macs.get(n, 0.01)) for n in masks}

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The multiply-adds of the weights alive; those that are not prunable are."""
        program = program_of(self, self.target)
        counts, needs = masks.counts, program.needs()
        sizes = {n: counts.get(n, math.prod(needs[n])) for n in program.macs()}
        return sum(each * sizes[n] for n, each in program.macs().items())

    def met(self, cost: float) -> bool:
        """Whether there are few enough."""
        return cost <= self.count

    def text(self, cost: float | None = None) -> str:
        """As in "5M macs"."""
        count = self.count if cost is None else round(cost)
        unit = next((u for u in ("m", "k") if count and count % UNITS[u] == 0), "")
        return f"{count // UNITS[unit]}{unit.upper() if unit == 'm' else unit} macs"

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What is not prunable, and what would be less."""
        least = self.cost(model, masks & ~masks)
        return (
            f"{least:,.0f} are in layers that are not pruned; a smaller input or narrower layers take fewer, or lower "
            "the floor"
        )
