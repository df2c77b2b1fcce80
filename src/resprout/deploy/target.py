"""What budgets must know besides masks: the network's operations, the values of its file, and the device.

What this file does not do: costs (`bytes.py`, `macs.py`, `flash.py`, `ram.py`, `latency.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.budget import Budget
from ..core.errors import BudgetError
from .devices import DEFAULT, Device, device
from .program import Program
from .trace import Traced

if TYPE_CHECKING:
    from .timing import Table


@dataclass(frozen=True)
class Target:
    """How a network will be stored, and where it will run; `budget.on(target)` makes a budget count that.

    Attributes:
        traced: its operations, or None where it could not be traced.
        values: the type of the weights in its file: "fp32", "fp16", "int8" or "int4".
        notes: further metadata of the file.
        device: where it runs; None is this machine, and for flash and RAM the microcontroller `devices.DEFAULT`.
        table: times that were measured on the device.
        threads: of the runtime.
        known: what was measured on the way, so that it is measured once.
    """

    traced: Traced | None = None
    values: str = "fp16"
    notes: Mapping[str, str] | None = None
    device: Device | None = None
    table: Table | None = field(default=None, compare=False, repr=False)
    threads: int = 1
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def board(self) -> Device:
        """The microcontroller that images are built for."""
        return self.device or device(DEFAULT)


def program_of(budget: Budget, target: Target | None) -> Program:
    """Return the operations that `budget` counts.

    Raises:
        BudgetError: it does not know them.
    """
    if target is None or target.traced is None:
        raise BudgetError(
            f"the budget {budget} is about a network's operations and does not know them: call fit, or "
            "budget.on(Target(lower(model, example)))"
        )
    return target.traced.program
