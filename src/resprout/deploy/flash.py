"""The budget in bytes of a microcontroller's flash."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..core.budget import Budget
from ..core.masks import Masks
from .bytes import UNITS, in_bytes
from .footprint import rest, weights
from .target import program_of

if TYPE_CHECKING:
    from .target import Target


@dataclass(frozen=True)
class Flash(Budget):
    """The image that the C export builds for the target's device has at most this many bytes of code and constants.

    The weights are counted exactly; the rest of the image is linked with the device's compiler, at the start with the
    masks of then, and at the end with the weights and masks that stay.
    """

    size: int
    graph: ClassVar[bool] = True
    target: Target | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> Flash | None:
        """As in "256KiB flash"."""
        return cls(round(number * UNITS[unit])) if unit in UNITS and word == "flash" else None

    @property
    def limit(self) -> float:
        """The bytes."""
        return self.size

    def on(self, target: Target) -> Flash:
        """With the target's device and operations."""
        return replace(self, target=target)

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """The bytes of the weights, and of the rest as measured last."""
        program_of(self, self.target)
        assert self.target is not None
        return weights(model, masks, self.target) + rest(model, masks, self.target).size

    def measured(self, model: nn.Module, masks: Masks) -> float:
        """The bytes of an image with these very weights."""
        program_of(self, self.target)
        assert self.target is not None
        return weights(model, masks, self.target) + rest(model, masks, self.target, again=True).size

    def met(self, cost: float) -> bool:
        """Whether it fits."""
        return cost <= self.size

    def text(self, cost: float | None = None) -> str:
        """As in "256KiB flash"."""
        return f"{in_bytes(self.size if cost is None else int(cost))} flash"

    def achieved(self, model: nn.Module, masks: Masks) -> dict[str, str]:
        """The bytes; where no compiler was, it says so."""
        words = self.text(self.cost(model, masks))
        recorded = self.target is not None and rest(model, masks, self.target).how == "recorded"
        return {self.text(): words + (" (code as its profile records)" if recorded else "")}

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """How much of it is code, and how much dense."""
        assert self.target is not None
        code, dense = rest(model, masks, self.target).size, weights(model, masks & ~masks, self.target)
        return (
            f"code and tables are {code:,} bytes, biases and norms {dense:,}; a larger device, or a narrower network "
            "takes less"
        )
