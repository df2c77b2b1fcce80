"""Cropr: after each block small heads learn the task from what the backbone offers, and tokens they do not attend to leave.

Bergner, Lippert, Mahendran: "Token Cropr: Faster ViTs for Quite a Few Tasks", CVPR 2025, arXiv:2412.00965 (classification).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.kinds import Fidelity
from ._kind import TokenPruner
from .vision import CroppedViT, CrossAttention


@dataclass(frozen=True)
class Cropr(TokenPruner):
    """After all blocks but the last `spare`, `drop` patches leave (one more the first time); with `fuse` the last sees all again.

    A head has one query of `heads` parts, and reads tokens that are cut off from the gradient: what it learns does not touch the
    backbone. Train with the objective `auxiliary_heads`. At inference queries times tokens is all that is computed of it.
    """

    drop: int = 8
    spare: int = 2
    fuse: bool = True
    heads: int = 16
    key: ClassVar[str | None] = "cropr"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, model: nn.Module) -> CroppedViT:
        """Return the network with a head after each block that drops."""
        cropped = CroppedViT(model, self.drop, self.spare, self.fuse)
        width, classes = cropped.width, cropped.classes
        cropped.scorers = nn.ModuleList(CrossAttention(width, self.heads, classes) for _ in range(cropped.crops))
        return cropped
