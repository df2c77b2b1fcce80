"""Residual: the first point further below the line through those before it than 3 times their mean residual.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...core.kinds import Cliff, Fidelity


@dataclass(frozen=True)
class Residual(Cliff):
    """Three points make the first line; points above the line are no fall.

    Three points may lie on a line by chance, so their mean residual counts as at least `floor` times the mean accuracy.
    """

    factor: float = 3.0
    floor: float = 1e-3
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, sparsities: Sequence[float], accuracies: Sequence[float]) -> float | None:
        """Return the sparsity of the last point before the fall."""
        x, y = np.asarray(sparsities, float), np.asarray(accuracies, float)
        for i in range(3, len(x)):
            dx = x[:i] - x[:i].mean()
            slope = dx @ (y[:i] - y[:i].mean()) / max(dx @ dx, 1e-300)
            residuals = y[: i + 1] - y[:i].mean() - slope * (x[: i + 1] - x[:i].mean())
            usual = max(np.abs(residuals[:i]).mean(), self.floor * abs(y[:i].mean()))
            if residuals[i] < -self.factor * usual:
                return float(x[i - 1])
        return None
