"""FTWT: small predictors learn from the network itself which filters will fire for this input, and the others are not computed.

Elkerdawy, Elhoushi, Zhang, Ray: "Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction",
CVPR 2022, arXiv:2110.08232. The decoupled form: predictors read inputs cut off from the gradient, and the task does not train
them. Pooling is by the maximum; filters of a fixed number per layer, the other kind of target, are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.kinds import Fidelity, Objective
from ._kind import Dynamic
from ._objective import FireTogether
from .gates import Gated, blocks, inner


@dataclass(frozen=True)
class Ftwt(Dynamic):
    """Targets are the fewest filters whose heat, the largest value of each, makes up `part` of all; train with `loss`.

    `weight` is that of the predictors' loss: the mean over layers of the sum over filters of their binary cross-entropy.
    """

    part: float = 0.9
    weight: float = 1.0
    key: ClassVar[str | None] = "ftwt"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, model: nn.Module, layers: Sequence[str] = ()) -> Gated:
        """Return the gated network; by default the first convolution of each block has a gate.

        Of `layers` those that are first in a block are watched behind its norm, the others at the convolution itself.
        """
        after = blocks(model) if layers else inner(model)[0]
        return Gated(model, {n: after.get(n, "") for n in layers} if layers else after)

    def loss(self) -> Objective:
        """Return what training makes small: the task's loss, and the predictors'."""
        return FireTogether(self.part, self.weight)
