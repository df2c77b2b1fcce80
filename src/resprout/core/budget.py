"""A limit in the device's own units, and the largest network that keeps it.

A `Budget` knows what masks cost and whether that is met. Here: sparsity, nonzero weights, and several limits at once;
bytes, multiply-adds, flash, RAM and latency are subclasses that live where their cost is known (`deploy/`).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from .errors import BudgetError, check_sparsity
from .masks import Masks

EXAMPLES = "'64KiB', '12k nonzero', '5M macs', '256KiB flash', '96KiB ram', '1.5ms' or a sparsity such as '0.98'"
FEW = 64  # units that are tried one by one
NEAR = 0.99  # a budget is met exactly if this much of it is used


class Budget(ABC):
    """What a network may cost."""

    graph: ClassVar[bool] = False  # whether it must know the network's operations

    @property
    @abstractmethod
    def limit(self) -> float:
        """The most that is allowed, in the budget's unit."""

    @staticmethod
    def parse(text: str | float | Budget) -> Budget:
        """Read "64KiB", "12k nonzero", a sparsity such as 0.98, or limits of several kinds: "256KiB flash, 4ms".

        Raises:
            BudgetError: nobody reads it, or it has two limits of one kind.
        """
        if isinstance(text, Budget):
            return text
        if isinstance(text, int | float):
            return Sparsity(check_sparsity(text, "budget"))
        if isinstance(text, str) and "," in text:
            return All(tuple(Budget.parse(part) for part in _parts(text, ",")))
        words = text.strip().lower().replace("_", "") if isinstance(text, str) else ""
        if match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ%]*)\s*([a-z]*)", words):
            for kind in Budget.__subclasses__():
                if (budget := kind.read(float(match[1]), match[2], match[3])) is not None:
                    return budget
        raise BudgetError(f"cannot read budget {text!r}; write {EXAMPLES}")

    @staticmethod
    def several(text: str | float | Budget | Sequence[str | float | Budget]) -> list[Budget]:
        """Read the budgets of one walk: a list, or a string with ";" between them.

        Without ";", commas stand between budgets of one kind ("16KiB,32KiB"), and between the limits of a single
        budget of several kinds ("256KiB flash, 4ms").

        Raises:
            BudgetError: one cannot be read, there is none, or commas mean both.
        """
        if not isinstance(text, str):
            parts = list(text) if isinstance(text, Sequence) else [text]
            if not parts:
                raise BudgetError("budget is empty: give one, such as '64KiB'")
            return [Budget.parse(part) for part in parts]
        if ";" in text:
            return [Budget.parse(part) for part in _parts(text, ";")]
        parts = [Budget.parse(part) for part in _parts(text, ",")]
        kinds = {type(part) for part in parts}
        if len(kinds) == 1:
            return parts
        if len(kinds) == len(parts):
            return [All(tuple(parts))]
        raise BudgetError(
            f"{text!r} has several limits of one kind beside others: write ';' between budgets, as in "
            "'16KiB, 1ms; 32KiB, 2ms'"
        )

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

    def on(self, target: Any) -> Budget:
        """Return this budget for a certain network, file and device (see `deploy.target.Target`)."""
        return self

    def prices(self, model: nn.Module, masks: Masks) -> Mapping[str, float] | None:
        """Return the cost of one more weight of each tensor where `masks` are alive; None where all cost the same."""
        return None

    def share(self, cost: float) -> float:
        """The part of the limit that `cost` takes up: at most 1 where it is met."""
        return cost / self.limit if self.limit else math.inf if cost else 1.0

    def measured(self, model: nn.Module, masks: Masks) -> float:
        """Return the cost as measured on the finished network, and correct by it what `cost` estimates, if it does."""
        return self.cost(model, masks)

    def achieved(self, model: nn.Module, masks: Masks) -> dict[str, str]:
        """Return each limit in words -> what the network takes of it, in words."""
        return {self.text(): self.text(self.cost(model, masks))}

    def keep(self, model: nn.Module, choose: Callable[[int], Masks], low: int, high: int) -> Masks:
        """Return the masks with the most weights alive, within [low, high], that keep the limit.

        Where few units are left out (whole layers), those that would still fit beside the best come in too, in their order.

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
        best, top = least, high
        while high - low > 1:  # low keeps the limit, high does not
            # Costs are nearly linear in the weights: guess by the line through both ends, and look just above.
            rest, span = 1 - self.share(cost), self.share(ceiling) - self.share(cost)
            guess = low + int(min(1.0, rest / max(span, 1e-9)) * (high - low))
            guess = min(max(guess, low + 1), high - 1)
            for step in (guess, guess + max(1, (high - low) // 64)):
                if low < step < high:
                    trial = choose(step)
                    if self.met(value := self.cost(model, trial)):
                        low, cost, best = step, value, trial
                    else:
                        high, ceiling = step, value
        return self._packed(model, choose, best, range(high, top + 1)) if top - low <= FEW else best

    def _packed(self, model: nn.Module, choose: Callable[[int], Masks], best: Masks, counts: range) -> Masks:
        """Add to `best` what `choose` adds next, where it fits; the first, which does not, is passed over."""
        before = choose(counts[0])
        for count in counts[1:]:
            after = choose(count)
            more = best | (after - before)
            if self.met(self.cost(model, more)):
                best = more
            before = after
        return best

    def check(self, model: nn.Module, masks: Masks) -> float:
        """Return what `masks`, the fewest weights that are allowed, cost.

        Raises:
            BudgetError: that is too much already; the message says how near one gets, and what would help.
        """
        if not self.met(cost := self.cost(model, masks)):
            at = ", ".join(self.achieved(model, masks).values())
            raise BudgetError(
                f"the budget {self} cannot be met: with {masks.alive:,} weights alive the network is still at "
                f"{at}; {self.remedy(model, masks)}"
            )
        return cost

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What would help when the limit cannot be met."""
        return "raise the budget or lower the floor"


def _parts(text: str, mark: str) -> list[str]:
    parts = [part.strip() for part in text.split(mark)]
    if len(parts) > 1 and not all(parts):
        raise BudgetError(f"there is an empty budget in {text!r}")
    return parts


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

    def share(self, cost: float) -> float:
        """The part of the weights allowed that is alive."""
        return (1 - cost) / max(1 - self.fraction, 1e-12)

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
        most = math.floor((1 - self.fraction) * least.total + 1e-6)
        if least.alive != low or (low == 0 and high != least.total):  # units of several weights
            return super().keep(model, choose, low, high)
        return choose(min(most, high))


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


@dataclass(frozen=True)
class All(Budget):
    """Several limits of different kinds, all to be met. Its cost is the largest share that is taken of any of them."""

    parts: tuple[Budget, ...]

    def __post_init__(self) -> None:
        for i, part in enumerate(self.parts):
            twin = next((other for other in self.parts[:i] if type(other) is type(part)), None)
            if twin is not None:
                raise BudgetError(
                    f"'{self}' limits one thing twice, to {twin} and to {part}; give one of them, or for several "
                    "networks a frontier (--frontier, or budget=[...])"
                )

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> None:
        """A single limit is never this."""

    @property
    def limit(self) -> float:
        """All of each."""
        return 1.0

    def of(self, kind: type[Budget]) -> Budget | None:
        """Return the limit of a kind."""
        return next((part for part in self.parts if type(part) is kind), None)

    def on(self, target: Any) -> All:
        """Each of them."""
        return replace(self, parts=tuple(part.on(target) for part in self.parts))

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The largest share."""
        return self._worst({part: part.cost(model, masks) for part in self.parts})

    def measured(self, model: nn.Module, masks: Masks) -> float:
        """The largest share as measured."""
        return self._worst({part: part.measured(model, masks) for part in self.parts})

    def _worst(self, costs: Mapping[Budget, float]) -> float:
        share = max(part.share(cost) for part, cost in costs.items())
        good = all(part.met(cost) for part, cost in costs.items())
        return min(share, 1.0) if good else max(share, math.nextafter(1, 2))

    def met(self, cost: float) -> bool:
        """Whether each is met."""
        return cost <= 1

    def prices(self, model: nn.Module, masks: Masks) -> Mapping[str, float] | None:
        """The sum of the shares that one more weight takes, or None if it is the same everywhere."""
        found = [(part.prices(model, masks), part) for part in self.parts if part.limit]
        priced = [(prices, part.limit) for prices, part in found if prices is not None]
        if not priced:
            return None
        return {n: sum(prices[n] / limit for prices, limit in priced) for n in masks}

    def text(self, cost: float | None = None) -> str:
        """The limits with commas between them; a cost as a percentage of the nearest one."""
        return ", ".join(map(str, self.parts)) if cost is None else f"{100 * cost:.4g} % of the budget"

    def achieved(self, model: nn.Module, masks: Masks) -> dict[str, str]:
        """Each limit."""
        return {asked: got for part in self.parts for asked, got in part.achieved(model, masks).items()}

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What would help those that are not met."""
        unmet = [part for part in self.parts if not part.met(part.cost(model, masks))]
        return "; ".join(f"{part}: {part.remedy(model, masks)}" for part in unmet)
