"""The budget in time for one sample, as measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..core.budget import Budget
from ..core.errors import BudgetError
from ..core.masks import Masks
from . import encoding, timing
from .runtime import Runtime
from .target import program_of

if TYPE_CHECKING:
    from .target import Target
    from .timing import Table

UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "µs": 1.0}


@dataclass(frozen=True)
class Latency(Budget):
    """The runtime takes at most so long for one sample, on this machine or on that of a table.

    On the way to it, time is read from a table of the layers (`timing.py`); the finished network is timed as a whole, and
    the table's sum is corrected by that.

    Attributes:
        microseconds: the time.
        target: the network, and the table of another machine.
    """

    microseconds: float
    graph: ClassVar[bool] = True
    target: Target | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Latency | None:
        """As in "1.5ms" or "200us"."""
        return cls(round(number * UNITS[unit], 6)) if unit in UNITS and not word else None

    @property
    def limit(self) -> float:
        """The microseconds."""
        return self.microseconds

    def on(self, target: Target) -> Latency:
        """With the target's operations and table."""
        return replace(self, target=target)

    def table(self) -> Table:
        """Return the times of the layers.

        Raises:
            BudgetError: they are not known: another device without a table, or a table of another network.
        """
        program = program_of(self, self.target)
        assert self.target is not None
        assert self.target.traced is not None
        known, device = self.target.known, self.target.device
        if "table" in known:
            return known["table"]
        if self.target.table is not None:
            if self.target.table.program != timing.digest(program):
                raise BudgetError(
                    "the table of times is of another network: make it with the model that is to be fitted"
                )
            known["table"] = self.target.table
        elif device is not None and device.name != "this-machine":
            raise BudgetError(
                f"the budget {self} is about time on {device.name}, which is measured there: run "
                "`resprout bench --table times.json` on it with this model, and give --table times.json here"
            )
        else:
            known["table"] = timing.table(program, self.target.traced.tensors, self.target.threads)
        return known["table"]

    def prices(self, model: nn.Module, masks: Masks) -> Mapping[str, float]:
        """The measured slopes: microseconds of one more weight."""
        table = self.table()
        slopes = {n: table.slope(n) if n in table.layers else 0.0 for n in masks}
        least = 0.01 * max(slopes.values()) or 1.0
        return {n: max(slope, least) for n, slope in slopes.items()}

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The table's sum, corrected by the last time that the whole network was timed."""
        table = self.table()
        assert self.target is not None
        return self.target.known.get("correction", 1.0) * table.microseconds(masks.counts)

    def measured(self, model: nn.Module, masks: Masks) -> float:
        """The median time of the whole network, where it can be run; for another machine, the table's."""
        estimate = self.table().microseconds(masks.counts)
        assert self.target is not None
        if self.target.table is not None:
            return self.cost(model, masks)
        archive = encoding.archive(model, masks, self.target.values, self.target.traced)
        program = program_of(self, self.target)
        time = timing.took(Runtime((program, archive.tensors()), self.target.threads))
        self.target.known["correction"] = time / estimate
        return time

    def met(self, cost: float) -> bool:
        """Whether it is fast enough."""
        return cost <= self.microseconds

    def text(self, cost: float | None = None) -> str:
        """As in "1.5ms"."""
        time = self.microseconds if cost is None else cost
        unit = next((u for u in ("s", "ms") if time >= UNITS[u]), "us")
        return f"{time / UNITS[unit]:.6g}{unit}" if cost is None else f"{time / UNITS[unit]:.4g}{unit}"

    def achieved(self, model: nn.Module, masks: Masks) -> dict[str, str]:
        """The time; where it is a table's, it says so."""
        words = self.text(self.cost(model, masks))
        table = self.target.table if self.target is not None else None
        return {self.text(): words if table is None else f"{words} (by the table of {table.machine})"}

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What takes the time that is left."""
        table = self.table()
        return (
            f"{table.rest:.4g}us are the call and layers without weights; a smaller input, fewer layers, or more threads "
            "take less"
        )
