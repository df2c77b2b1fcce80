"""MAD: adversarial saliency, the curvature of the loss under attack along the change that would undo the attack's damage.

Lee, Kim, Ro: "Masking Adversarial Damage: Finding Adversarial Saliency for Robust and Sparse Network", CVPR 2022,
arXiv:2204.02738, for networks that were trained against attacks (the objective `mart`); in others it keeps what attacks use.
There convolutions are ranked together and the last layer row by row; here what is ranked with what is the allocation's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...evaluate.attack import attacked
from ...numerics.kfac import factors


@dataclass(frozen=True)
class Mad(Score):
    """Of each batch under attack, 1/2 d'Hd of d = w less w under a soft mask that makes the loss small, by Adam.

    H is K-FAC's, without what couples different outputs; the mask starts at sigmoid(`start`). `epsilon` and `step` are in units
    of what the network reads: divide by the deviation that images were normalised by.
    """

    epsilon: float = 0.03
    step: float = 0.0069
    steps: int = 10
    rounds: int = 20
    lr: float = 0.1
    start: float = 5.0
    key: ClassVar[str | None] = "mad"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the mean saliency over the batches."""
        total = {n: torch.zeros_like(w) for n, w in probe.weights().items()}
        for clean in probe.data():
            with probe.aside():
                batch = attacked(probe.loss, clean, self.epsilon, self.step, self.steps)
                change = self.change(probe, batch)
            for n, f in factors(probe, batch, probe.names).items():
                total[n] += f.rows(change[n]) / len(probe.data())
        return total

    def change(self, probe: Probe, batch: Any) -> dict[str, Tensor]:
        """Return w less w under the soft mask that has been learnt on one batch."""
        w = probe.weights()
        soft = {n: torch.full_like(x, self.start).requires_grad_() for n, x in w.items()}
        optimizer = torch.optim.Adam(soft.values(), self.lr)
        for _ in range(self.rounds):
            with torch.enable_grad():
                probe.loss(batch, {n: w[n] * s.sigmoid() for n, s in soft.items()}).backward(inputs=list(soft.values()))
            optimizer.step()
            optimizer.zero_grad()
        return {n: w[n] * (1 - s.detach().sigmoid()) for n, s in soft.items()}
