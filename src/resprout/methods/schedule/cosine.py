"""Cosine: slow at both ends, v = end + (start - end) * (1 + cos(pi t)) / 2.

Loshchilov, Hutter: "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv:1608.03983 (for
learning rates); for shares of weights in Dettmers, Zettlemoyer, arXiv:1907.04840.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave, after a linear rise from 0 to `start` in the first `warmup` of the time (0: none)."""

    start: float
    end: float
    warmup: float = 0.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ResproutError(f"warmup is a fraction of the time in [0, 1), got {self.warmup:g}")

    def __call__(self, t: float) -> float:
        """Return the value at `t`."""
        t = min(max(t, 0.0), 1.0)
        if t < self.warmup:
            return self.start * t / self.warmup
        u = (1 + math.cos(math.pi * (t - self.warmup) / (1 - self.warmup))) / 2
        return u * self.start + (1 - u) * self.end
