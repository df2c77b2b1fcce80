"""HRank: the mean rank of a channel's feature maps, which hardly depends on the images.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao: "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020, arXiv:2002.10565.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class Hrank(Score):
    """The mean over the first `samples` of each batch (8 x 64 are about the paper's 500 images).

    A linear unit has a map of one value, or one row of tokens, whose rank is 0 or 1.
    """

    samples: int = 64
    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the mean ranks, the same for all weights of a row."""
        mean, _ = moments(probe, lambda x: ranks(x[:, : self.samples]), maps=True)
        return fill(probe, mean)


def ranks(maps: Tensor) -> Tensor:
    """Return the rank of each of `maps` (channels, samples, height, ...), all but the height being one dimension."""
    height = maps.shape[2] if maps.dim() > 2 else 1
    return torch.linalg.matrix_rank(maps.float().reshape(*maps.shape[:2], height, -1))
