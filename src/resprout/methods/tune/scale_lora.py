"""ScaleLoRA: each weight is multiplied by its place in a low-rank matrix, W * (B A), so that zeros stay zeros.

Zimmer, Andoni, Spiegel, Pokutta: "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv:2312.15230.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn, zeros

from ...core.kinds import Fidelity, Tune
from . import _low_rank


@dataclass(frozen=True)
class ScaleLora(Tune):
    """Factors of `rank` beside the prunable weights, and (`biases_norms`) all biases and norms themselves.

    All of A and B begins as 1 / sqrt(r), so that B A = 1; what is kept and decays is the distance from there, which makes that
    exact for any rank. As all r terms begin alike they stay alike: it is one row and one column of factors that are learned.
    """

    rank: int = 16
    layers: str = ""
    biases_norms: bool = True
    key: ClassVar[str | None] = "perp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def own(self, model: nn.Module) -> Collection[str]:
        """Return biases and norms, if wanted."""
        return _low_rank.own(model, self.layers, self.biases_norms)

    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return how far A and B are from 1 / sqrt(r): not at all; float32."""
        if not re.search(self.layers, name):
            return {}
        rows, columns, rank = _low_rank.sizes(weight, self.rank)
        return {"a": zeros(rank, columns), "b": zeros(rows, rank)}

    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """Return W * (1 / sqrt(r) + B) (1 / sqrt(r) + A), multiplied out."""
        a, b = beside["a"], beside["b"]
        linear = (b.sum(1, keepdim=True) + a.sum(0)).view(weight.shape) / math.sqrt(len(a))
        return weight * (1 + linear + _low_rank.product(beside, weight))
