"""Taylor, per channel: how the loss changes to first order when all the weights that make a channel become zero at once.

Molchanov, Mallya, Tyree, Frosio, Kautz: "Importance Estimation for Neural Network Pruning", CVPR 2019, arXiv:1906.10771
(squared); Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient Inference",
ICLR 2017, arXiv:1611.06440 (absolute; there of activations, whose product with their gradient is this sum).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe, share
from ._rows import fill, rows


@dataclass(frozen=True)
class TaylorChannel(Score):
    """|sum over the row of g * w| to the power of `p` (2 or 1), averaged over the batches."""

    p: int = 2
    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise ResproutError(f"p must be 1 or 2, got {self.p!r}")

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the means, the same for all weights of a row."""
        filters = rows(probe)
        total = {n: torch.zeros_like(w[:, 0]) for n, w in filters.items()}
        count = 0
        for grads in probe.per_batch():
            count += 1
            for n, g in rows(probe, grads).items():
                total[n] += (g * filters[n]).sum(1).abs() ** self.p
        return fill(probe, {n: share(t / count) for n, t in total.items()})
