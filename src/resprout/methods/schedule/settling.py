"""Settling: half a cosine wave down to a value that then stays: the learning rate of stochastic weight averaging.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018,
arXiv:1803.05407 (a constant rate at the end, so that the averaged weights differ).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Settling(Schedule):
    """From `start` to `end` until `settled`, after a linear rise from 0 in the first `warmup` of the time (0: none)."""

    start: float
    end: float
    settled: float = 0.75
    warmup: float = 0.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.settled <= 1:
            raise ResproutError(f"needs 0 <= warmup < settled <= 1, got {self.warmup:g} and {self.settled:g}")

    def __call__(self, t: float) -> float:
        """Return the value at `t`."""
        if max(t, 0.0) < self.warmup:
            return self.start * max(t, 0.0) / self.warmup
        u = min(1.0, (max(t, 0.0) - self.warmup) / (self.settled - self.warmup))
        u = (1 + math.cos(math.pi * u)) / 2
        return u * self.start + (1 - u) * self.end
