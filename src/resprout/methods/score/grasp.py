"""GraSP: what a weight does for the gradient flow, w * (H g), signed.

Wang, Zhang, Grosse: "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020, arXiv:2002.07376.
The paper removes the highest S(-w) = -w * (H g); our scores say what is kept, so the sign is turned. Its published
code divides the logits by 200 first; put that into the loss if it is wanted.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Grasp(Score):
    """w * (H g): high where removing the weight would weaken the gradient most."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return w * (H g)."""
        h, w = probe.hessian_product(), probe.weights()
        return {n: select.Elementwise(torch.mul, (h[n], w[n])) for n in probe.names}
