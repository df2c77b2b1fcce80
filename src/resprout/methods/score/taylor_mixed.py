"""Taylor with a second term: how the loss changes when the weight becomes zero, |g w - F w^2 / 2| with the diagonal Fisher F.

Ma, Fang, Wang: "LLM-Pruner: On the Structural Pruning of Large Language Models", NeurIPS 2023, arXiv:2305.11627. A coupled
group is worth the sum over all its weights, wherever they sit: granularity="width". Without the second term it is `taylor`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class TaylorMixed(Score):
    """The paper's per-weight form to second order. It cuts the same share of each block (`uniform`) and spares the outermost."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return the changes."""
        g, f, w = probe.gradients(), probe.fisher(), probe.weights()
        return {n: select.Elementwise(_change, (g[n], f[n], w[n])) for n in probe.names}


def _change(g: Tensor, f: Tensor, w: Tensor) -> Tensor:
    return (g * w - f * w.square() / 2).abs()
