"""SNIP: connection sensitivity |g * w| / sum |g * w|, taken once before training.

Lee, Ajanthan, Torr: "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, arXiv:1810.02340.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe


@dataclass(frozen=True)
class Snip(Score):
    """|g * w| over its sum over all prunable weights; meant for a network at its initial values."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return the sensitivities, which sum to 1."""
        g, w = probe.gradients(), probe.weights()
        total = sum(float((g[n].double() * w[n]).abs().sum()) for n in probe.names) or 1.0
        return {n: select.Elementwise(lambda g, w: (g * w).abs() / total, (g[n], w[n])) for n in probe.names}
