"""Movement: whether training moves the weight away from zero, -w * dL/dw, accumulated over the batches; signed.

Sanh, Wolf, Rush: "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, arXiv:2005.07683. The paper
accumulates while the weights move; here they stand still, which for a short look differs by the learning rate only.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Movement(Score):
    """-(mean g) * w."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return -g * w."""
        g, w = probe.gradients(), probe.weights()
        return {n: select.Elementwise(lambda g, w: -g * w, (g[n], w[n])) for n in probe.names}
