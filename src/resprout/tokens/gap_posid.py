"""Gap: tokens that survive keep their places in the sentence, whatever left between them.

Chien, Lin, Tsai, Lai, Chen, Sun: "Grounding-Aware Token Pruning: Recovering from Drastic Performance Drops in Visual Grounding
Caused by Pruning", arXiv:2506.21873 (2025). Here before the first layer; a merged token takes the place of its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ._kind import Kept, Positions


@dataclass(frozen=True)
class GapPosid(Positions):
    """Survivors in ascending order with the ids of old; what follows has the id it would have had without pruning."""

    key: ClassVar[str | None] = "gap-posid"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, kept: Tensor, total: int) -> Kept:
        """Sort."""
        order = checked(kept, total).sort().values
        return Kept(order, order.clone(), total)


def compact(kept: Tensor, total: int) -> Kept:
    """Return survivors in ascending order, numbered anew from 0: the common fault "shifted"."""
    order = checked(kept, total).sort().values
    return Kept(order, torch.arange(len(order), device=order.device), len(order))


def permuted(kept: Tensor, total: int) -> Kept:
    """Return survivors in the order given, numbered anew from 0: the common fault "permuted"."""
    order = checked(kept, total)
    return Kept(order, torch.arange(len(order), device=order.device), len(order))


def checked(kept: Tensor, total: int) -> Tensor:
    """Return `kept`.

    Raises:
        ResproutError: no place, one twice, or one outside the sequence.
    """
    if kept.dim() != 1 or kept.is_floating_point() or kept.dtype == torch.bool or len(kept) == 0:
        raise ResproutError(f"kept is one or more places, int64 (kept,), got {kept.dtype} {tuple(kept.shape)}")
    if int(kept.min()) < 0 or int(kept.max()) >= total or len(kept.unique()) < len(kept):
        raise ResproutError(f"kept must name each place from 0 to {total - 1} once at most")
    return kept
