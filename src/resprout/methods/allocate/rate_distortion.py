"""Rate-distortion: the densities that lose least in sum, by measured losses of each layer alone, found exactly.

Xu, Wang, Geng, Lin, Wu, Li, Lin: "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks", ICCV
2023, arXiv:2308.10438. `search/distortion.py` measures the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import nearest
from ...core.kinds import Allocation, Fidelity, Scores
from ...numerics.knapsack import choose


@dataclass(frozen=True)
class RateDistortion(Allocation):
    """`tables` holds, by weight name, the distortion at each density of `levels`; their sum is made least within the allowance.

    A tensor in no table stays as it is.
    """

    levels: tuple[float, ...]
    tables: Mapping[str, tuple[float, ...]]
    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the counts.

        Raises:
            ResproutError: a name that is not among the prunable weights.
        """
        for name in self.tables:
            if name not in scores:
                raise nearest(name, scores, "weight in tables")
        lower, upper = scores.bounds
        counts = {
            n: [min(max(round(d * scores.sizes[n]), lower[n]), upper[n]) for d in self.levels]
            if n in self.tables
            else [upper[n]]
            for n in scores
        }
        costs = [[prices[n] * k for k in counts[n]] for n in scores]
        picks = choose(costs, [self.tables.get(n, (0.0,)) for n in scores], allowance)
        return {n: float(counts[n][i]) for n, i in zip(scores, picks, strict=True)}
