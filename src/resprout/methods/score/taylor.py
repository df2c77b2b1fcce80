"""Taylor: the first-order change of the loss when the weight is set to zero, |g * w|.

Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR
2017, arXiv:1611.06440; per weight and squared, which ranks alike, in Molchanov et al., CVPR 2019, arXiv:1906.10771.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Taylor(Score):
    """|g * w| with the mean gradient g."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return |g * w|."""
        g, w = probe.gradients(), probe.weights()
        return {n: select.Elementwise(lambda g, w: (g * w).abs(), (g[n], w[n])) for n in probe.names}
