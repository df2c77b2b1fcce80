"""Geometric median: how far a filter is from all others of its layer; the most replaceable one lies in their midst.

He, Liu, Wang, Hu, Yang: "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration"
(FPGM), CVPR 2019, arXiv:1811.00250.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._rows import fill, rows

CHUNK = 1024  # filters compared with all others at a time


@dataclass(frozen=True)
class GeometricMedian(Score):
    """The sum of Euclidean distances to the layer's filters, in float64. The paper cuts each layer by the same rate."""

    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the sums, the same for all weights of a row."""
        return fill(probe, {n: distances(w.double()) for n, w in rows(probe).items()})


def distances(filters: Tensor) -> Tensor:
    """Return the sum of the distances of each row to all rows of `filters` (n, d): (n,)."""
    filters = filters - filters.mean(0)  # what all share would cancel, and cost digits
    return torch.cat([torch.cdist(some, filters).sum(1) for some in filters.split(CHUNK)])
