"""Magnitude: the absolute value of the weight.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...core.select import Elementwise


@dataclass(frozen=True)
class Magnitude(Score):
    """|w|; read where it is needed, never stored."""

    order: ClassVar[int] = 2
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Elementwise]:
        """Return |w|."""
        return {n: Elementwise(torch.abs, (w,)) for n, w in probe.weights().items()}
