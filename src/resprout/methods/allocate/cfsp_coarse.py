"""CFSP, between blocks: those that turn their inputs further keep more.

Wang, Ma, Wang, Chen, Shan, Yang, Xu, Liu, Qin: "CFSP: An Efficient Structured Pruning Framework for LLMs with Coarse-to-Fine
Activation Information", COLING 2025, arXiv:2409.13199. `remove/cfsp.py` measures the angles.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ...core.kinds import Allocation, Fidelity, Scores
from ._blocks import blocks


@dataclass(frozen=True)
class CfspCoarse(Allocation):
    """`angle` by block: between what a token is before it and behind it, as a part of pi; others count as their mean.

    Densities are as sigmoid(a z) with z = (angle - mean) * tokens / 10,000: the paper sums over 128 samples of 2,048 tokens.
    No density reaches 1.
    """

    angle: Mapping[str, float] = field(default_factory=dict)
    a: float = 1.0
    tokens: int = 128 * 2048
    key: ClassVar[str | None] = "cfsp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return the counts."""
        members = blocks(list(scores))
        known = [self.angle[b] for b in members if b in self.angle]
        mean = sum(known) / max(1, len(known))
        z = {b: (self.angle.get(b, mean) - mean) * self.tokens / 1e4 for b in members}
        keep = allowance / sum(prices[n] * size for n, size in scores.sizes.items())
        density = densities({b: 1 / (1 + math.exp(-self.a * v)) for b, v in z.items()}, keep)
        return {n: density[b] * scores.sizes[n] for b, names in members.items() for n in names}


def densities(importance: Mapping[str, float], keep: float) -> dict[str, float]:
    """Return densities in proportion to importance with the mean `keep`; where one would reach 1, all move to their mean."""
    mean = sum(importance.values()) / len(importance)
    top = max(importance.values())
    nearer = 1.0
    if 0 < keep < 1 and top > mean and top / mean * keep >= 1:
        nearer = mean * (1 / keep - 1) / (top - mean) / 1.05
    return {b: max(0.0, (1 + nearer * (i - mean) / mean) * keep) for b, i in importance.items()}
