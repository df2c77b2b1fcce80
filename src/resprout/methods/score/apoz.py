"""APoZ: how often a channel is not zero after its activation; 1 - the average percentage of zeros.

Hu, Peng, Tai, Tang: "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures", 2016,
arXiv:1607.03250.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class Apoz(Score):
    """The share of samples and positions that are not zero; it says nothing where the activation has no zeros (GELU)."""

    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the shares, the same for all weights of a row."""
        alive, _ = moments(probe, lambda x: (x != 0).flatten(1))
        return fill(probe, alive)
