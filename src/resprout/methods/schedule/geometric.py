"""Geometric: what is alive falls by the same factor in equal times, 1 - v = (1 - start)^(1-t) * (1 - end)^t.

Frankle, Carbin: "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019, arXiv:1803.03635
(iterative pruning removes a fixed share of the survivors each round).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Schedule


@dataclass(frozen=True)
class Geometric(Schedule):
    """From `start` to `end`, both sparsities under 1."""

    start: float
    end: float
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (self.start < 1 and self.end < 1):
            raise ResproutError(f"no constant factor leads to a sparsity of 1: {self}; take another schedule or end")

    def __call__(self, t: float) -> float:
        """Return the sparsity at `t`."""
        if t <= 0 or t >= 1:
            return self.start if t <= 0 else self.end
        return 1 - (1 - self.start) ** (1 - t) * (1 - self.end) ** t
