"""Minitron, width: how strongly a unit is active, by its l2-norm over the positions of a sample, averaged over the samples.

Sreenivas, Muralidharan, Joshi, Chochowski, et al.: "LLM Pruning and Distillation in Practice: The Minitron Approach",
arXiv:2408.11796; Muralidharan et al.: "Compact Language Models via Pruning and Knowledge Distillation", NeurIPS 2024,
arXiv:2407.14679.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class MinitronWidth(Score):
    """Neurons after activation and gate, heads by the norm of what they put out, channels of the width behind their norms.

    Each is looked at where the next layer reads it; channels of the width in every layer that follows one of theirs, and
    averaged. Rank each kind by itself and each layer alike, as the paper does: `allocate="uniform"`.
    """

    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "minitron"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the importances, the same for all weights of a row."""
        mean, _ = moments(probe, _over_positions)
        return fill(probe, mean)


def _over_positions(x: Tensor) -> Tensor:
    """The norms (units, samples) of x (units, samples, *a head's features and positions)."""
    return x.float().reshape(*x.shape[:2], -1).norm(dim=2)
