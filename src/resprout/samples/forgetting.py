"""Forgetting: how often a sample was right at one look and wrong at the next; those never right are worth most.

Toneva, Sordoni, Tachet des Combes, Trischler, Bengio, Gordon: "An Empirical Study of Example Forgetting during Deep Neural
Network Learning", ICLR 2019, arXiv:1812.05159. The paper looks at each batch as it is trained on; here all samples are
looked at after every epoch of a course, and once before each new draw.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.kinds import Fidelity
from ._kind import SampleScore, Seen


@dataclass(frozen=True)
class Forgetting(SampleScore):
    """The number of times a sample was forgotten; that of all looks, which is more than possible, where it was never right."""

    over_time: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, seen: Seen) -> Tensor:
        """Return the numbers."""
        right = torch.stack([*seen.history] or [seen.said.right])
        forgotten = (right[:-1] & ~right[1:]).sum(0)
        return torch.where(right.any(0), forgotten, len(right)).double()
