"""Cubic: fast at first, slow at the end, v = end + (start - end) * (1 - t)^3.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Cubic(Schedule):
    """Automated gradual pruning."""

    start: float
    end: float
    fidelity: ClassVar[Fidelity] = "paper-checked"
    key: ClassVar[str | None] = "agp-cubic"

    def __call__(self, t: float) -> float:
        """Return the value at `t`."""
        u = (1 - min(max(t, 0.0), 1.0)) ** 3
        return u * self.start + (1 - u) * self.end  # this form is exact at both ends
