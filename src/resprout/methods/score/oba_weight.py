"""OBA of single weights: each weight's part of the second-order change, |w * (H w)|, as a share of its tensor's mean.

Sun, Fang, Wang, Jiang, Kong, Hu, Fang, Xu: "Optimal Brain Apoptosis", ICLR 2025, arXiv:2502.17941 (unstructured; of equal ones
the larger weight is kept). Channels: `score/oba.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._apoptosis import attribution

TIES = 1e-6  # what the largest weight of a tensor has more


@dataclass(frozen=True)
class ObaWeight(Score):
    """|w * (H w)| / 2 over its mean in the tensor, and a little of |w| to part equal ones."""

    key: ClassVar[str | None] = "oba"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the shares."""
        found = {}
        for name, part in attribution(probe).items():
            size, weight = part.abs(), probe.weights()[name].abs()
            found[name] = size / size.mean().clamp(min=1e-30) + TIES * weight / weight.max().clamp(min=1e-30)
        return found
