"""The largest differences: by size, or by size times the norm of the input, an exact count; nothing is rescaled.

Deng et al.: "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models", ICLR 2025, arXiv:2410.09344 (importance
variants, which win over random ones where differences are large).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import check_sparsity
from ..core.kinds import Fidelity
from ..core.masks import keep_count
from ..core.select import top
from ._kind import DeltaPruner, Pair
from .delta import Tensors


@dataclass(frozen=True)
class Largest(DeltaPruner):
    """Keep exactly the share 1 - drop of each weight's differences: the largest, with `inputs` times their inputs' norms."""

    drop: float = 0.99
    inputs: bool = False
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, pair: Pair) -> Tensors:
        """Choose.

        Raises:
            ResproutError: a share outside [0, 1].
        """
        check_sparsity(self.drop, "drop")
        norms = pair.norms if self.inputs else {}
        return {n: d * self._kept(d, norms.get(n)) for n, d in pair.delta.items()}

    def _kept(self, delta: Tensor, norm: Tensor | None) -> Tensor:
        size = delta.abs().float()
        if norm is not None:
            size = size * norm.repeat_interleave(len(delta) // len(norm), 0).reshape(delta.shape)
        return top({"": size}, keep_count(self.drop, delta.numel()))[""]
