"""The budget in bytes of a microcontroller's RAM."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..core.budget import Budget
from ..core.masks import Masks
from .bytes import UNITS, in_bytes
from .export.c import STACK, ram
from .target import program_of

if TYPE_CHECKING:
    from .target import Target


@dataclass(frozen=True)
class Ram(Budget):
    """The image that the C export builds takes at most this many bytes of RAM: activations, input, output, stack.

    It holds all channels, so zeros among the weights do not change it: this is a check, made before training. Channels that
    leave do (`fit` with granularity="channel").
    """

    size: int
    graph: ClassVar[bool] = True
    target: Target | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Ram | None:
        """As in "96KiB ram"."""
        return cls(round(number * UNITS[unit])) if unit in UNITS and word == "ram" else None

    @property
    def limit(self) -> float:
        """The bytes."""
        return self.size

    def on(self, target: Target) -> Ram:
        """With the target's device and operations."""
        return replace(self, target=target)

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The bytes that the linker map says, too."""
        return ram(program_of(self, self.target))

    def met(self, cost: float) -> bool:
        """Whether it fits."""
        return cost <= self.size

    def text(self, cost: float | None = None) -> str:
        """As in "96KiB ram"."""
        return f"{in_bytes(self.size if cost is None else int(cost))} ram"

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """What takes it."""
        program = program_of(self, self.target)
        return (
            f"{ram(program) - STACK:,} bytes of it are activations, one input and one output, which zeros do not make "
            "smaller: remove channels (granularity='channel'), use a smaller input, or another device"
        )
