"""Attention map: the mean power of a channel after its activation, mean |A|^p.

Zhao, Jain, Zhao: "Adaptive Activation-based Structured Pruning", 2022, arXiv:2201.10520.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._activations import moments
from ._rows import fill


@dataclass(frozen=True)
class AttentionMap(Score):
    """The mean over samples of the mean ("mean") or the largest ("max") of |A|^`p` over positions; the paper's are p = 1, 2."""

    p: int = 1
    over: str = "mean"
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "aap"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.p < 1 or self.over not in ("mean", "max"):
            raise ResproutError(f"p must be at least 1 and over 'mean' or 'max', got {self.p!r} and {self.over!r}")

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the means, the same for all weights of a row."""

        def look(x: Tensor) -> Tensor:
            power = x.double().abs().pow(self.p).flatten(2) if x.dim() > 2 else x.double().abs().pow(self.p)[..., None]
            return power.flatten(1) if self.over == "mean" else power.amax(2)

        mean, _ = moments(probe, look)
        return fill(probe, mean)
