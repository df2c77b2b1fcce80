"""Newton gain: by how much the loss falls when a dead weight takes its own Newton step, g^2 / (2 (h + lambda)).

Ours, after the second-order saliency of LeCun, Denker, Solla: "Optimal Brain Damage", NIPS 1989, with the Fisher
diagonal for the curvature h; a signal of regrowth in the experiments on arXiv:2511.11675.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class NewtonGain(Score):
    """g^2 / (2 (h + lambda)), where lambda = `damping` * the mean of h over all prunable weights.

    A relative lambda makes the ranking independent of the scale of the loss. Without one, weights whose gradients are
    tiny but of constant sign would win, for h is then g^2.
    """

    damping: float = 1.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return the gains."""
        g, h = probe.gradients(), probe.fisher()
        mean = sum(float(x.sum()) for x in h.values()) / max(1, sum(x.numel() for x in h.values()))
        damping = max(self.damping * mean, 1e-30)
        return {n: select.Elementwise(lambda g, h: g.square() / (2 * (h + damping)), (g[n], h[n])) for n in probe.names}
