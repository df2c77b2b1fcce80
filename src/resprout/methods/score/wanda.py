"""Wanda: a weight's magnitude times the norm of the input that it reads, |w_ij| ||x_j||.

Sun, Liu, Bair, Kolter: "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, arXiv:2306.11695. The
paper compares within each output: granularity="row". Dead weights count with their value in the dense network, if one is known.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...core.select import Elementwise
from ...numerics.curvature import norms


@dataclass(frozen=True)
class Wanda(Score):
    """|w| times the root of its input's mean square over samples and positions; read where it is needed, never stored."""

    order: ClassVar[int] = 2
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Elementwise]:
        """Return the products."""
        found = norms(probe, probe.names)
        return {n: Elementwise(_product, (w, _like(found[n], w))) for n, w in probe.values().items()}


def _product(weight: Tensor, norm: Tensor) -> Tensor:
    return weight.abs().float() * norm


def _like(norm: Tensor, weight: Tensor) -> Tensor:
    """The norms (groups, columns), in the form of the weight; of a single group they are not repeated in memory."""
    rows = norm.expand(len(weight), -1) if len(norm) == 1 else norm.repeat_interleave(len(weight) // len(norm), 0)
    return rows.unflatten(1, weight.shape[1:])
