"""Average-parameter law: a network that is pruned while it trains learns as a dense one of its average size.

Jin, Humayun, Evci, Subramanian, Yazdanbakhsh, Alistarh, Dziugaite: "The Journey Matters: Average Parameter Count over
Pre-training Unifies Sparse and Dense Scaling Laws", ICLR 2025, arXiv:2501.12486. L = E + A / N^alpha + B / D^beta, N being the
mean over training of the weights alive; and the plan it goes with: dense, geometric pruning, recovery at 1 : 2 : 1 of compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Fidelity
from ._law import Law, Points


@dataclass(frozen=True)
class AvgParamLaw(Law):
    """Variables: average_params (N), tokens (D)."""

    coefficients: ClassVar[tuple[str, ...]] = ("E", "A", "alpha", "B", "beta")
    positive: ClassVar[frozenset[str]] = frozenset(coefficients)
    variables: ClassVar[tuple[str, ...]] = ("average_params", "tokens")
    scaled: ClassVar[frozenset[str]] = frozenset(variables)
    key: ClassVar[str | None] = "avg-param-law"
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def loss(self, c: Mapping[str, Tensor], at: Points) -> Tensor:
        """Return the loss."""
        return c["E"] + c["A"] * at["average_params"] ** -c["alpha"] + c["B"] * at["tokens"] ** -c["beta"]

    def plain(self, c: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
        """Return the coefficients for variables as they are."""
        size, data = means["average_params"] ** c["alpha"], means["tokens"] ** c["beta"]
        return {**c, "A": c["A"] * size, "B": c["B"] * data}


@dataclass(frozen=True)
class Plan:
    """When to prune, and what it comes to.

    Attributes:
        start, end: the steps of the first and the last cut.
        steps: of the whole training.
        params: prunable weights of the dense network; `fixed` are those that are never pruned.
        final, average: weights at the end, and on average over the steps; with the fixed ones.
        flops: of training on `tokens`, 6 for each weight alive and token, were hardware to skip zeros; None without tokens.
        dense_flops: the same without pruning.
    """

    start: int
    end: int
    steps: int
    sparsity: float
    params: float
    fixed: float
    final: float
    average: float
    flops: float | None = None
    dense_flops: float | None = None

    @property
    def saving(self) -> float:
        """How many of the weights of the dense network that learns as well are not there at the end, a fraction."""
        return 1 - self.final / self.average


def plan(
    sparsity: float,
    steps: int,
    params: float,
    *,
    fixed: float = 0.0,
    tokens: float | None = None,
    dense: float = 0.25,
    recovery: float = 0.25,
) -> Plan:
    """Return when to prune so that `dense` of the compute comes before the first cut and `recovery` after the last.

    While pruning geometrically from 1 to d the mean density is m = (1 - d) / ln(1 / d): of all steps the phases take shares in
    proportion to dense / 1, (1 - dense - recovery) / m and recovery / d.

    Raises:
        ResproutError: no sparsity, or shares that leave nothing to prune in.
    """
    d = 1 - check_sparsity(sparsity)
    if not (0 < d < 1 and dense >= 0 and recovery >= 0 and dense + recovery < 1):
        raise ResproutError(
            f"a plan needs a sparsity in (0, 1) and shares under 1, got {sparsity:g}, {dense:g}, {recovery:g}"
        )
    m = (1 - d) / math.log(1 / d)
    k = 1 / (dense + (1 - dense - recovery) / m + recovery / d)  # steps per compute; also the mean density
    start, end = dense * k * steps, (dense + (1 - dense - recovery) / m) * k * steps
    average = fixed + k * params
    spent = (None, None) if tokens is None else (6 * average * tokens, 6 * (fixed + params) * tokens)
    return Plan(round(start), round(end), steps, sparsity, params, fixed, fixed + d * params, average, *spent)


def keep_ratios(sparsity: float, start: int, end: int, every: int) -> list[float]:
    """Return the density after each event, one every `every` steps from `start` to `end` inclusive: d^((i + 1) / n).

    Raises:
        ResproutError: no event.
    """
    if end < start or every < 1:
        raise ResproutError(f"events lie every so many steps from start to end, got {start} to {end} every {every}")
    n, d = (end - start) // every + 1, 1 - check_sparsity(sparsity)
    return [d ** ((i + 1) / n) if i + 1 < n else d for i in range(n)]


def average(density: Callable[[float], float] | Sequence[float], pieces: int = 100_000) -> float:
    """Return the mean density over a training: of numbers per step, or of a function of progress t in [0, 1] (midpoints).

    A schedule of sparsities, such as `Cubic(0, 0.9)`, is `average(lambda t: 1 - schedule(t))`.
    """
    if callable(density):
        density = [density((i + 0.5) / pieces) for i in range(pieces)]
    return math.fsum(density) / len(density)
