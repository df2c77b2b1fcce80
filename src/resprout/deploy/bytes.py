"""The budget in bytes of the saved file."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..core.budget import Budget
from ..core.masks import Masks
from . import encoding

_UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


@dataclass(frozen=True)
class Bytes(Budget):
    """The saved file has at most this many bytes."""

    size: int
    values: str = "fp16"

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Bytes | None:
        """As in "64KiB", "8000 B" or "1MB flash"."""
        return cls(round(number * _UNITS[unit])) if unit in _UNITS and word in ("", "flash") else None

    @property
    def limit(self) -> float:
        """The bytes of the file."""
        return self.size

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The bytes of the file."""
        return encoding.size(model, masks, self.values)

    def met(self, cost: float) -> bool:
        """Whether the file is small enough."""
        return cost <= self.size

    def text(self, cost: float | None = None) -> str:
        """As in "64KiB", or bytes where they are not whole."""
        size = self.size if cost is None else int(cost)
        return f"{size // 1024}KiB" if size % 1024 == 0 and size else f"{size}B"

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """How much of it is not prunable at all."""
        rest = encoding.size(model, masks & ~masks, self.values)
        return f"{rest:,} bytes are biases, norms and the header, which stay dense"
