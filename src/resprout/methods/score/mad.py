"""MAD: adversarial saliency, the curvature of the loss under attack along the change that would undo the attack's damage.

Lee, Kim, Ro: "Masking Adversarial Damage: Finding Adversarial Saliency for Robust and Sparse Network", CVPR 2022,
arXiv:2204.02738, for networks that were trained against attacks (the objective `mart`); in others it keeps what attacks use.
There convolutions are ranked together and the last layer row by row; here what is ranked with what is the allocation's.

No advantage is seen on digits at 95 % (`benchmarks/inputs.py mad`, two seeds): under attack 68.6 and 70.8 %, random weights 72.5
and 65.6, magnitude 83.3 and 84.2; without `products` 77.8 and 76.4. Of inputs that are never negative, products give a weight
the sign of its part in its row's sum: what was kept of the inner convolutions was 93 and 81 % positive (one seed).
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe, share
from ...evaluate.attack import attacked
from ...numerics.kfac import factors
from ._soft_mask import masked


@dataclass(frozen=True)
class Mad(Score):
    """Of each batch under attack, 1/2 d'Hd of d = w less w under a soft mask that makes the loss small, by Adam.

    H is K-FAC's of the masked network in evaluation mode, without what couples different outputs, and without `products` (ours)
    also without what couples different inputs. `epsilon` and `step` are in units of what the network reads: divide by the
    deviation that images were normalised by.
    """

    epsilon: float = 0.03
    step: float = 0.0069
    steps: int = 10
    rounds: int = 20
    lr: float = 0.1
    products: bool = True
    key: ClassVar[str | None] = "mad"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the mean saliency over the batches."""
        probe = copy.copy(probe)
        probe.training = False
        w, total = probe.weights(), {n: torch.zeros_like(x) for n, x in probe.weights().items()}
        for clean in probe.data():
            with probe.aside():
                batch = attacked(probe.loss, clean, self.epsilon, self.step, self.steps)
                soft = masked(probe, batch, self.rounds, self.lr)
            for n, f in factors(probe, batch, probe.names, soft).items():
                total[n] += f.rows(w[n] - soft[n], self.products) / len(probe.data())
        return {n: share(t) for n, t in total.items()}
