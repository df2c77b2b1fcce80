"""Linear: v = start + (end - start) * t.

Dettmers, Zettlemoyer: "Sparse Networks from Scratch: Faster Training without Losing Performance", arXiv:1907.04840
(compares linear with cosine decay of the share that is replaced).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line, after one from 0 to `start` in the first `warmup` of the time (0: none)."""

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
        t = (t - self.warmup) / (1 - self.warmup)
        return (1 - t) * self.start + t * self.end
