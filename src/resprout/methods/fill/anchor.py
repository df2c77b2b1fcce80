"""Anchor: reborn weights start with the dense network's own values.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675 (one
of its four initial values).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Fill


@dataclass(frozen=True)
class Anchor(Fill):
    """The anchor's value."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, weight: Tensor, anchor: Tensor | None, generator: Generator) -> Tensor:
        """Return the anchor.

        Raises:
            ResproutError: no anchor was given.
        """
        if anchor is None:
            raise ResproutError("fill 'anchor' takes the dense network's values: pass anchor=dense_model")
        return anchor.to(weight)
