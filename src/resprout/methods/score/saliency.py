"""Saliency: what a weight was worth to the dense network, the mean over batches of (dL/dw)^2, times w^2.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675 (which
dead weights come back).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Saliency(Score):
    """(dL/dw)^2 * w^2 at the anchor, whatever the network has become since."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return F * w^2 of the dense network; gradients and weights are both its own."""
        dense = probe.at_anchor()
        f, w = dense.fisher(), dense.weights()
        return {n: select.Elementwise(lambda f, w: f * w.square(), (f[n], w[n])) for n in probe.names}
