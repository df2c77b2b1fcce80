"""Two segments: the curve as two straight lines with the least squared error in all; the second is the fall.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...core.kinds import Cliff, Fidelity


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Return slope and intercept of the least-squares line, and the residuals."""
    dx = x - x.mean()
    slope = float(dx @ (y - y.mean()) / max(dx @ dx, 1e-300))
    intercept = float(y.mean() - slope * x.mean())
    return slope, intercept, y - slope * x - intercept


@dataclass(frozen=True)
class TwoSegment(Cliff):
    """Both segments have two points at least; no cliff unless the second falls more steeply than the first."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, sparsities: Sequence[float], accuracies: Sequence[float]) -> float | None:
        """Return the sparsity of the last point of the first segment."""
        x, y = np.asarray(sparsities, float), np.asarray(accuracies, float)
        if len(x) < 4:
            return None

        def error(split: int) -> float:
            return sum(float(r @ r) for _, _, r in (line(x[:split], y[:split]), line(x[split:], y[split:])))

        split = min(range(2, len(x) - 1), key=error)
        first, second = line(x[:split], y[:split])[0], line(x[split:], y[split:])[0]
        steeper = second < min(0.0, first - 1e-9 * abs(first))  # more than rounding makes of one straight line
        return float(x[split - 1]) if steeper else None
