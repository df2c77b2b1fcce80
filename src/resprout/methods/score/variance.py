"""Variance: how much a unit varies after its activation, over all samples and positions; a constant one can be a bias.

Berisha, Mehnert, Condurache: "Variance-Based Pruning for Accelerating and Compressing Trained Networks", ICCV 2025,
arXiv:2507.12988. Its mean-shift compensation is `recover/mean_shift.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class Variance(Score):
    """The population variance, merged in float64 from one pass over the batches."""

    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "vbp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the variances, the same for all weights of a row."""
        _, variance = moments(probe, lambda x: x.flatten(1))
        return fill(probe, variance)
