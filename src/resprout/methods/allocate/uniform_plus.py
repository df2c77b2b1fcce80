"""Uniform+: the first convolution stays dense, the last linear layer keeps at least a fifth, the rest is uniform.

Gale, Elsen, Hooker: "The State of Sparsity in Deep Neural Networks", arXiv:1902.09574; in the form that Lee, Park,
Mo, Ahn, Shin: "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, arXiv:2010.07611, compare with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class UniformPlus(Allocation):
    """Uniform, but kind to both ends of the network."""

    last: float = 0.2
    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return counts that cost the allowance.

        Raises:
            ResproutError: the two layers alone cost more than the allowance.
        """
        lower, upper = scores.bounds
        convs = [n for n, shape in scores.shapes.items() if len(shape) > 2]
        linears = [n for n, shape in scores.shapes.items() if len(shape) == 2]
        least = {n: min(max(self.last * scores.sizes[n], lower[n]), upper[n]) for n in linears[-1:]}

        def around(pinned: dict[str, float]) -> dict[str, float]:
            rest = {n: float(k) for n, k in scores.sizes.items() if n not in pinned}
            left = allowance - sum(prices[n] * k for n, k in pinned.items())
            if left < sum(prices[n] * lower[n] for n in rest):
                raise ResproutError(
                    f"uniform_plus holds {' and '.join(pinned)} above the {allowance:,.0f} that all may cost; "
                    "lower sparsity or choose another allocation"
                )
            return pinned | select.level(rest, left, lower, upper, prices)

        first: dict[str, float] = {n: float(upper[n]) for n in convs[:1]}
        counts = around(first)
        return counts if all(counts[n] >= k for n, k in least.items()) else around(first | least)
