"""Random tokens: what any choice of tokens has to be compared with.

Ours; a baseline of Bergner, Lippert, Mahendran, CVPR 2025, arXiv:2412.00965.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.kinds import Fidelity
from ._kind import TokenPruner
from .vision import CroppedViT


@dataclass(frozen=True)
class Random(TokenPruner):
    """As many patches leave as with `cropr`, drawn anew for each batch; in evaluation mode by a seed."""

    drop: int = 8
    spare: int = 2
    fuse: bool = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, model: nn.Module) -> CroppedViT:
        """Return the network without heads."""
        return CroppedViT(model, self.drop, self.spare, self.fuse)
