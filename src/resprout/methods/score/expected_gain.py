"""Expected gain: by how much the loss falls when a weight goes from zero to its dense value v, -(g v + h v^2 / 2).

Ours, the second-order expansion of LeCun, Denker, Solla: "Optimal Brain Damage", NIPS 1989, read backwards: for
weights that come back to the anchor's value, as in arXiv:2511.11675, with the Fisher diagonal for h.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class ExpectedGain(Score):
    """-(g v + h v^2 / 2) with g and h of the sparse network, v of the dense one; negative where v would do harm."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return the gains; they mean something for dead weights only."""
        g, h, v = probe.gradients(), probe.fisher(), probe.anchor()
        return {
            n: select.Elementwise(lambda g, h, v: -(g * v + h * v.square() / 2), (g[n], h[n], v[n]))
            for n in probe.names
        }
