"""Gradual magnitude pruning as published: one cubic ramp, the same sparsity in every layer.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", ICLR 2018 workshop,
arXiv:1710.01878.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity, Recipe
from ...core.run import Run
from ..allocate.uniform import Uniform
from ..score.magnitude import Magnitude
from .one_way import OneWay


@dataclass(frozen=True)
class Gmp(Recipe):
    """The one-way recipe with a uniform allocation; the rest as in `path`."""

    epochs: float = 8
    path: OneWay = OneWay(score=Magnitude(), allocate=Uniform(), every=100)  # noqa: RUF009
    key: ClassVar[str | None] = "agp-cubic"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        dataclasses.replace(self.path, epochs=self.epochs)(run, budgets)
