"""MaskLoRA: low-rank adapters under the mask, W + (alpha / r) (B A) * M, which become part of the weights and wake none.

Zimmer, Andoni, Spiegel, Pokutta: "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv:2312.15230;
the adapters are those of Hu et al.: "LoRA", ICLR 2022, arXiv:2106.09685. `biases_norms=False, layers="mlp"` is the healing of
Gromov et al.: "The Unreasonable Ineffectiveness of the Deeper Layers", ICLR 2025, arXiv:2403.17887 (without its 4-bit base).
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, empty, nn

from ...core.kinds import Fidelity, Tune
from . import _low_rank


@dataclass(frozen=True)
class MaskLora(Tune):
    """Adapters of `rank` beside the prunable weights, and (`biases_norms`) all biases and norms themselves.

    With `masked=False` they are trained without the mask, which comes when they are merged: the paper's LoRA-Prune. `layers` is
    a regular expression to be found in the names of weights.
    """

    rank: int = 16
    alpha: float = 32.0
    masked: bool = True
    layers: str = ""
    biases_norms: bool = True
    key: ClassVar[str | None] = "perp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def own(self, model: nn.Module) -> Collection[str]:
        """Return biases and norms, if wanted."""
        return _low_rank.own(model, self.layers, self.biases_norms)

    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return A, uniform as in a linear layer, and B, zero; float32."""
        if not re.search(self.layers, name):
            return {}
        rows, columns, rank = _low_rank.sizes(weight, self.rank)
        a = empty(rank, columns).uniform_(-1, 1, generator=generator) / math.sqrt(columns)
        return {"a": a, "b": a.new_zeros(rows, rank)}

    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """Return W + (alpha / r) (B A) * M."""
        change = _low_rank.product(beside, weight) * (self.alpha / len(beside["a"]))
        return weight + (change * mask if self.masked else change)
