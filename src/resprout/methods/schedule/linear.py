"""Linear: v = start + (end - start) * t.

Dettmers, Zettlemoyer: "Sparse Networks from Scratch: Faster Training without Losing Performance", arXiv:1907.04840
(compares linear with cosine decay of the share that is replaced).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line."""

    start: float
    end: float
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, t: float) -> float:
        """Return the value at `t`."""
        t = min(max(t, 0.0), 1.0)
        return (1 - t) * self.start + t * self.end
