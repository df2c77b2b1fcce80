"""DLP: a block whose typical score is larger is held to have fewer outliers, and is cut more.

Chen, Cheng, Han, Zhang, et al.: "DLP: Dynamic Layerwise Pruning in Large Language Models", ICML 2025, arXiv:2505.23807. The
scores are Wanda's there. The released code takes the mean where the paper says median: `stat="mean"`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Scores
from ._blocks import blocks, tilted, together

STATS: dict[str, Callable[[Tensor], Tensor]] = {
    "median": lambda x: x.median(), "mean": lambda x: x.mean(), "max": lambda x: x.max(), "sum": lambda x: x.sum(),
    "std": lambda x: x.std(),
}  # fmt: skip


@dataclass(frozen=True)
class Dlp(Allocation):
    """Importance is 1 - U_l / sum U, with U_l the `stat` of a block's scores; densities differ by 2 * `alpha` at most."""

    alpha: float = 0.15
    stat: Literal["median", "mean", "max", "sum", "std"] = "median"
    key: ClassVar[str | None] = "dlp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.stat not in STATS:
            raise ResproutError(f"stat must be one of {', '.join(STATS)}, got {self.stat!r}")

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the counts."""
        typical = {}
        for block, names in blocks(list(scores)).items():
            values = together(scores, names)
            typical[block] = float(STATS[self.stat](values)) if len(values) > 1 else 0.0
        total = sum(typical.values()) or 1.0
        return tilted(scores, prices, allowance, {b: 1 - u / total for b, u in typical.items()}, 2 * self.alpha)
