"""Cyclic: `cycles` equal cycles, each a cubic rise from `start` to `end`, so that weights cut in haste can return.

Srinivas, Kuzmin, Nagel, van Baalen, Skliar, Blankevoort: "Cyclical Pruning for Sparse Neural Networks", CVPR
Workshops 2022, arXiv:2202.01290.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Cubic pruning that starts over; the last cycle ends at `end`."""

    start: float
    end: float
    cycles: int = 3
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, t: float) -> float:
        """Return the value at `t`."""
        t = min(max(t, 0.0), 1.0) * self.cycles
        u = 0.0 if t == self.cycles else (1 - t % 1) ** 3
        return u * self.start + (1 - u) * self.end
