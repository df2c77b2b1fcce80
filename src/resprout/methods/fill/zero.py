"""Zero: reborn weights start at zero, so that nothing changes until the optimizer moves them.

Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv:1911.11134.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ...core.kinds import Fidelity, Fill


@dataclass(frozen=True)
class Zero(Fill):
    """0."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, weight: Tensor, anchor: Tensor | None, generator: Generator) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(weight)
