"""Fisher: the second-order rise of the loss when the weight is set to zero, w^2 * F / 2.

LeCun, Denker, Solla: "Optimal Brain Damage", NIPS 1989 (the form h * w^2 / 2); Theis, Korshunova, Tejani, Huszar:
"Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787 (the Fisher diagonal F for h).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Fisher(Score):
    """w^2 * F / 2, with F the mean over batches of the squared gradient."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return w^2 * F / 2."""
        f, w = probe.fisher(), probe.weights()
        return {n: select.Elementwise(lambda f, w: f * w.square() / 2, (f[n], w[n])) for n in probe.names}
