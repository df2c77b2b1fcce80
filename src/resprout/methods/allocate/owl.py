"""OWL: a block with more outliers among its scores stays denser.

Yin, Wu, Zhang, Hsieh, Wang, Jia, Pechenizkiy, Liang, Wang, Liu: "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret
Sauce for Pruning LLMs to High Sparsity", ICML 2024, arXiv:2310.05175. The scores are Wanda's there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores
from ._blocks import blocks, tilted, together


@dataclass(frozen=True)
class Owl(Allocation):
    """An outlier is `times` the mean of its block at least; densities differ by 2 * `reach` at most."""

    times: float = 5.0
    reach: float = 0.08
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the counts."""
        ratio = {}
        for block, names in blocks(list(scores)).items():
            values = together(scores, names)
            ratio[block] = float((values > self.times * values.mean()).float().mean()) if len(values) else 0.0
        return tilted(scores, prices, allowance, ratio, 2 * self.reach)
