"""The kind of method that says what a passage is worth, whatever will be asked; and the cut."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import ResproutError
from ..core.kinds import Method
from ..core.masks import keep_count
from ..core.select import top
from .collection import Collection

Scores = NDArray[np.float64]


class Quality(Method):
    """What each passage is worth before anyone asks: higher is indexed."""

    @abstractmethod
    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Return a finite number for each passage.

        Args:
            collection: its judgements are those that may be learned from.
            seed: of all chance.
        """


def kept(scores: Scores, pruned: float) -> NDArray[np.bool_]:
    """Return which passages stay when the share `pruned` of them, those of the lowest scores, are dropped: an exact count.

    Raises:
        ResproutError: no share, no passages, or a score that is not finite.
    """
    if not len(scores):
        raise ResproutError("there are no passages to prune: scores is empty")
    if not 0 <= pruned < 1:
        raise ResproutError(f"a share in [0, 1) of the passages is pruned, got {pruned:g}")
    order = torch.from_numpy(np.asarray(scores)).float()
    return top({"": order}, max(1, keep_count(pruned, len(order))))[""].numpy()
