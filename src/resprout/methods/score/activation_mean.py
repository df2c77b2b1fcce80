"""Activation mean: the mean value of a channel after its activation.

Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR
2017, arXiv:1611.06440 (as a criterion to compare with).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class ActivationMean(Score):
    """The mean over samples and positions, where the next layer reads the channel (see `_activations.moments`)."""

    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the means, the same for all weights of a row."""
        mean, _ = moments(probe, lambda x: x.flatten(1))
        return fill(probe, mean)
