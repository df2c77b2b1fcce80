"""The budget in bytes of the saved file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from ..core.budget import Budget
from ..core.masks import Masks
from . import encoding

if TYPE_CHECKING:
    from .target import Target
    from .trace import Traced

UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


@dataclass(frozen=True)
class Bytes(Budget):
    """The saved file has at most this many bytes.

    A place costs about the same in each tensor, so weights have no prices (docs/budgets.md has the measurement).

    Attributes:
        size: the bytes.
        values: the type of the weights in the file: "fp32", "fp16", "int8" or "int4".
        traced: what `trace` found, if the file is to carry the program with norms folded.
        notes: further metadata of the file, as in `encoding.archive`.
    """

    size: int
    values: str = "fp16"
    traced: Traced | None = field(default=None, compare=False, repr=False)
    notes: Mapping[str, str] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Bytes | None:
        """As in "64KiB" or "8000 B"."""
        return cls(round(number * UNITS[unit])) if unit in UNITS and not word else None

    def on(self, target: Target) -> Bytes:
        """The file as it will be written."""
        return replace(self, values=target.values, traced=target.traced, notes=target.notes)

    @property
    def limit(self) -> float:
        """The bytes of the file."""
        return self.size

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The bytes of the file."""
        return encoding.size(model, masks, self.values, self.traced, self.notes)

    def met(self, cost: float) -> bool:
        """Whether the file is small enough."""
        return cost <= self.size

    def text(self, cost: float | None = None) -> str:
        """As in "64KiB", or bytes where they are not whole."""
        return in_bytes(self.size if cost is None else int(cost))

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """How much of it is not prunable at all."""
        rest = encoding.size(model, masks & ~masks, self.values, self.traced, self.notes)
        return f"{rest:,} bytes are biases, norms and the header, which stay dense"


def in_bytes(size: int) -> str:
    """Return "64KiB", or bytes where they are not whole."""
    return f"{size // 1024}KiB" if size % 1024 == 0 and size else f"{size}B"
