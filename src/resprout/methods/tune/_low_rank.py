"""Two thin factors beside a weight of any shape, which counts as a matrix of one row per output."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from ...core.errors import ResproutError
from .biases_norms import BiasesNorms


def own(model: nn.Module, layers: str, small: bool) -> Collection[str]:
    """Return biases and norms, where they are trained as well (`small`).

    Raises:
        ResproutError: no layer is called so.
    """
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    if not any(re.search(layers, n) for n in names):
        raise ResproutError(f"layers={layers!r} is found in no name such as {', '.join(names[:3])}")
    return BiasesNorms().own(model) if small else ()


def sizes(weight: Tensor, rank: int) -> tuple[int, int, int]:
    """Return rows, columns, and the rank where these allow it.

    Raises:
        ResproutError: no rank.
    """
    if rank < 1:
        raise ResproutError(f"rank must be 1 or more, got {rank}")
    rows, columns = len(weight), weight[0].numel()
    return rows, columns, min(rank, rows, columns)


def product(beside: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return B A, in the shape of `like`."""
    return (beside["b"] @ beside["a"]).view(like.shape)
