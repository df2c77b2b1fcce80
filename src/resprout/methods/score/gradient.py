"""Gradient: the absolute value of the mean gradient, |dL/dw|, which dead weights have, too.

Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134
(its criterion of growth).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Gradient(Score):
    """|g|."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return |g|."""
        return {n: select.Elementwise(torch.abs, (g,)) for n, g in probe.gradients().items()}
