"""Random: every sample is worth a random number, the baseline that many scores do not beat.

Ours; with distillation it is hard to beat: Ben-Baruch et al., arXiv:2403.07854 (see `kd_data_pruning`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.kinds import Fidelity
from ._kind import SampleScore, Seen


@dataclass(frozen=True)
class Random(SampleScore):
    """Uniform in [0, 1), from the run's seed and place."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, seen: Seen) -> Tensor:
        """Return the numbers."""
        return torch.rand(len(seen.samples[1]), generator=torch.Generator().manual_seed(seen.seed))
