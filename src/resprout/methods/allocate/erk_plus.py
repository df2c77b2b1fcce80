"""ERK+: the last linear layer stays dense, and Erdos-Renyi-kernel shares what is left among the others.

Liu, Chen, Chen, Shen, Mocanu, Wang, Pechenizkiy: "The Unreasonable Effectiveness of Random Pruning: Return of the Most
Naive Baseline for Sparse Training", ICLR 2022, arXiv:2202.02643.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...core import select
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Scores


@dataclass(frozen=True)
class ErkPlus(Allocation):
    """Counts in proportion to the sum of the shape; the last linear layer has all of its own, and the budget is kept."""

    by_shape: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"
    key: ClassVar[str | None] = "random-pruning"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return counts that cost the allowance.

        Raises:
            ResproutError: the last linear layer alone costs more than the allowance.
        """
        lower, upper = scores.bounds
        linears = [n for n, shape in scores.shapes.items() if len(shape) == 2]
        last = {n: float(upper[n]) for n in linears[-1:]}
        left = allowance - sum(prices[n] * k for n, k in last.items())
        claims = {n: float(sum(shape)) for n, shape in scores.shapes.items() if n not in last}
        if left < sum(prices[n] * lower[n] for n in claims):
            raise ResproutError(
                f"erk_plus keeps {''.join(last)} dense, which costs more than the {allowance:,.0f} that all may cost; "
                "lower sparsity or choose another allocation, such as 'erk'"
            )
        return last | select.level(claims, left, lower, upper, prices)
