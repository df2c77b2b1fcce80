"""Bidirectional, one-shot: cut at once past the cliff, fine-tune, then regrow the damaged layers in steps of 1 % of all weights.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity, Recipe
from ...core.run import Run
from .bidirectional_iterative import BidirectionalIterative


@dataclass(frozen=True)
class BidirectionalOneshot(Recipe):
    """The iterative recipe with a single cut (`rate` 1) and one fixed size of regrowth; the rest as in `path`."""

    epochs: float = 8
    path: BidirectionalIterative = BidirectionalIterative(rate=1 - 1e-9, fractions=(0.01,))  # noqa: RUF009
    key: ClassVar[str | None] = "bidirectional"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        dataclasses.replace(self.path, epochs=self.epochs)(run, budgets)
