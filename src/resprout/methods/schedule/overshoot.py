"""Overshoot: down past the target to a stump, back up to the target, then rest.

Ours, a path for "Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff",
arXiv:2511.11675, with the gradual cut of Zhu, Gupta, arXiv:1710.01878.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Overshoot(Schedule):
    """Sparsity: cubic from `start` to `stump` until `down`, linear back to `end` until `up`, then `end`."""

    start: float
    end: float
    stump: float
    down: float = 0.4
    up: float = 0.8
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 < self.down < self.up <= 1:
            raise ResproutError(f"down and up are moments with 0 < down < up <= 1, got {self.down:g} and {self.up:g}")

    def __call__(self, t: float) -> float:
        """Return the sparsity at `t`."""
        if t >= self.up:
            return self.end
        u = (1 - max(t, 0.0) / self.down) ** 3 if t < self.down else 0.0
        v = (t - self.down) / (self.up - self.down) if t > self.down else 0.0
        return u * self.start + (1 - u) * ((1 - v) * self.stump + v * self.end)
