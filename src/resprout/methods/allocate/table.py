"""Table: densities fixed by hand or by an earlier search, layer by layer.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626 (thresholds chosen per layer by sensitivity).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.errors import nearest
from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class Table(Allocation):
    """`densities` by weight name; tensors that are not named share what is left evenly."""

    densities: Mapping[str, float]
    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the named counts, and an even density for the rest.

        Raises:
            ResproutError: a name that is not among the prunable weights.
        """
        for name in self.densities:
            if name not in scores:
                raise nearest(name, scores, "weight in densities")
        named = {n: d * scores.sizes[n] for n, d in self.densities.items()}
        left = allowance - sum(prices[n] * k for n, k in named.items())
        rest = {n: float(scores.sizes[n]) for n in scores if n not in named}
        return named | select.level(rest, left, *scores.bounds, prices)
