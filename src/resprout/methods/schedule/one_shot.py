"""One-shot: the end at once.

Lee, Ajanthan, Torr: "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, arXiv:1810.02340
(as the opposite of gradual pruning).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class OneShot(Schedule):
    """`end` from the first moment; `start` is there so that all schedules read alike."""

    start: float
    end: float
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, t: float) -> float:
        """Return `end`."""
        return self.end
