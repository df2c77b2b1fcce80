"""A limit in the device's own units, and the largest network that keeps it.

A `Budget` knows what masks cost and whether that is met. Here: sparsity and nonzero weights; bytes, RAM, multiply-adds
and latency are subclasses that live where their cost is known (`deploy/`).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .errors import BudgetError, check_sparsity
from .masks import Masks


class Budget(ABC):
    """What a network may cost."""

    @property
    @abstractmethod
    def limit(self) -> float:
        """The most that is allowed, in the budget's unit."""

    @staticmethod
    def parse(text: str | float | Budget) -> Budget:
        """Read "64KiB", "12k nonzero" or a sparsity such as 0.98: whatever one of the budgets reads.

        Raises:
            BudgetError: nobody reads it.
        """
        if isinstance(text, Budget):
            return text
        if isinstance(text, int | float):
            return Sparsity(check_sparsity(text, "budget"))
        words = text.strip().lower().replace("_", "") if isinstance(text, str) else ""
        if match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)\s*([a-z]*)", words):
            for kind in Budget.__subclasses__():
                if (budget := kind.read(float(match[1]), match[2], match[3])) is not None:
                    return budget
        raise BudgetError(f"cannot read budget {text!r}; write '64KiB', '12k nonzero' or a sparsity such as '0.98'")

    @classmethod
    @abstractmethod
    def read(cls, number: float, unit: str, word: str) -> Budget | None:
        """Return the budget that, say, (12.0, "k", "nonzero") means (lower case), or None if that is another's.

        Raises:
            ResproutError: it is this one's, and wrong.
        """

    @abstractmethod
    def cost(self, model: nn.Module, masks: Masks) -> float:
        """Return what `masks` cost, in this budget's unit."""

    @abstractmethod
    def met(self, cost: float) -> bool:
        """Whether `cost` keeps the limit."""

    @abstractmethod
    def text(self, cost: float | None = None) -> str:
        """The limit (or a cost) in words, as `parse` reads it."""

    def __str__(self) -> str:
        return self.text()

    def keep(self, model: nn.Module, choose: Callable[[int], Masks], low: int, high: int) -> Masks:
        """Return the masks with the most weights alive, within [low, high], that keep the limit.

        Args:
            model: the network.
            choose: weights alive -> masks; more must cost more.
            low: weights alive that there are at least.
            high: weights alive that there may be at most.

        Raises:
            BudgetError: not even `low` keeps it; the message says how near one gets.
        """
        least = choose(low)
        cost = self.check(model, least)
        most = choose(high)
        if self.met(ceiling := self.cost(model, most)):
            return most
        best = least
        while high - low > 1:  # low keeps the limit, high does not
            # Costs are nearly linear in the weights: guess by the line through both ends, and look just above.
            guess = low + int((self.limit - cost) / max(ceiling - cost, 1e-9) * (high - low))
            guess = min(max(guess, low + 1), high - 1)
            for step in (guess, guess + max(1, (high - low) // 64)):
                if low < step < high:
                    trial = choose(step)
                    if self.met(value := self.cost(model, trial)):
                        low, cost, best = step, value, trial
                    else:
                        high, ceiling = step, value
        return best

    def check(self, model: nn.Module, masks: Masks) -> float:
        """Return what `masks`, the fewest weights that are allowed, cost.

        Raises:
            BudgetError: that is too much already; the message says how near one gets, and what would help.
        """
        if not self.met(cost := self.cost(model, masks)):
            raise BudgetError(
                f"the budget {self} cannot be met: with {masks.alive:,} weights alive the network is still at "
                f"{self.text(cost)}; {self.remedy(model, masks)}"
            )
        return cost

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What would help when the limit cannot be met."""
        return "raise the budget or lower the floor"


@dataclass(frozen=True)
class Sparsity(Budget):
    """At least this fraction of the prunable weights is zero."""

    fraction: float

    def __post_init__(self) -> None:
        check_sparsity(self.fraction, "budget")

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Sparsity | None:
        """As in "0.98", "98 %" or "0.98 sparsity"."""
        if (unit, word) in (("", ""), ("sparse", ""), ("sparsity", "")):
            return cls(check_sparsity(number, "budget"))
        return (
            cls(check_sparsity(number / 100, "budget")) if unit == "%" and word in ("", "sparse", "sparsity") else None
        )

    @property
    def limit(self) -> float:
        """The sparsity."""
        return self.fraction

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The sparsity."""
        return masks.sparsity

    def met(self, cost: float) -> bool:
        """Whether the sparsity is reached."""
        return cost >= self.fraction - 1e-9

    def text(self, cost: float | None = None) -> str:
        """As in "0.98"."""
        return f"{self.fraction if cost is None else cost:.6g}"

    def keep(self, model: nn.Module, choose: Callable[[int], Masks], low: int, high: int) -> Masks:
        """As in `Budget.keep`, without search."""
        least = choose(low)
        self.check(model, least)
        return choose(min(math.floor((1 - self.fraction) * least.total + 1e-6), high))


@dataclass(frozen=True)
class Nonzero(Budget):
    """At most this many prunable weights are not zero."""

    count: int

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Nonzero | None:
        """As in "12000 nonzero" or "12k weights"."""
        unit, word = ("", unit) if not word else (unit, word)
        scale = {"": 1, "k": 1000, "m": 1_000_000}.get(unit)
        return cls(round(number * scale)) if word in ("nonzero", "weights") and scale else None

    @property
    def limit(self) -> float:
        """The weights alive."""
        return self.count

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The weights alive."""
        return masks.alive

    def met(self, cost: float) -> bool:
        """Whether there are few enough."""
        return cost <= self.count

    def text(self, cost: float | None = None) -> str:
        """As in "12000 nonzero"."""
        return f"{self.count if cost is None else cost:.0f} nonzero"
