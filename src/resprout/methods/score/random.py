"""Random: a uniform number in [0, 1), the control that every other score has to beat.

Gale, Elsen, Hooker: "The State of Sparsity in Deep Neural Networks", arXiv:1902.09574 (as a baseline).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Random(Score):
    """Uniform in [0, 1), the same for the same seed of the probe."""

    fidelity: ClassVar[Fidelity] = "smoke-tested"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return random numbers, drawn on the CPU so that every device gives the same."""
        generator = probe.generator()
        return {n: torch.rand(w.shape, generator=generator).to(w.device) for n, w in probe.weights().items()}
