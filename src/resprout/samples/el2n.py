"""EL2N: the length of a sample's error, | softmax(f(x)) - onehot(y) |; hard samples are kept.

Paul, Ganguli, Dziugaite: "Deep Learning on a Data Diet: Finding Important Examples Early in Training", NeurIPS 2021,
arXiv:2107.07075 (section 3). The paper averages ten networks; here one network scores, and a course may renew its scores.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..core.kinds import Fidelity
from ._kind import SampleScore, Seen


def error_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return | softmax(logits) - onehot(labels) | of each sample, in [0, sqrt 2]."""
    return (logits.double().softmax(-1) - F.one_hot(labels, logits.shape[-1])).norm(dim=-1)


@dataclass(frozen=True)
class El2n(SampleScore):
    """The norm of the error of each sample."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, seen: Seen) -> Tensor:
        """Return the norms."""
        return error_norm(seen.said.logits, seen.said.labels)
