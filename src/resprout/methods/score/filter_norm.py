"""Filter norm: the L1 (or L2) norm of all the weights that make a channel.

Li, Kadav, Durdanovic, Samet, Graf: "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._rows import fill, rows


@dataclass(frozen=True)
class FilterNorm(Score):
    """The L`p` norm of the row, p = 1 or 2. Layers differ in width: the paper cuts each by its own rate ("uniform")."""

    p: int = 1
    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise ResproutError(f"p must be 1 or 2, got {self.p!r}")

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the norms, the same for all weights of a row."""
        return fill(probe, {n: torch.linalg.vector_norm(w, self.p, 1) for n, w in rows(probe).items()})
