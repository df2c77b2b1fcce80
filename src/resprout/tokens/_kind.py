"""The two kinds of method that prune tokens: where survivors say they are, and which tokens survive; no method itself."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from ..core.kinds import Method


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens of a sequence that are left.

    Attributes:
        order: int64 (kept,), their places in the full sequence, in the order in which they enter.
        ids: int64 (kept,), the position ids that they get.
        following: the position id of the token that comes after the sequence.
    """

    order: Tensor
    ids: Tensor
    following: int


class Positions(Method):
    """Which position ids the survivors of any token pruner get."""

    @abstractmethod
    def __call__(self, kept: Tensor, total: int) -> Kept:
        """Return order and ids.

        Args:
            kept: int64, places in the full sequence, in whatever order the pruner chose them.
            total: tokens of the full sequence.

        Raises:
            ResproutError: no place, one twice, or one outside the sequence.
        """


class TokenPruner(Method):
    """Drops tokens between the blocks of a transformer."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> nn.Module:
        """Return a network around `model`, whose blocks it shares, that drops tokens on the way; it is trained like any other.

        Raises:
            ResproutError: a network without the blocks that are needed.
        """
