"""Is the difference of two arms more than chance? Paired, by the bootstrap.

Both arms have the same seeds and the same test samples, so that what is resampled are seeds and samples of the differences:
Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, arXiv:0712.1111 (rows and columns independently; it errs
on the side of wide intervals). Resampling few seeds gives intervals that are too narrow (with three, one false win in four);
the seeds' part is stretched to the width that Student's t has, for the reasons in Hesterberg, "What Teachers Should Know
about the Bootstrap", 2014, arXiv:1411.5279 (section 4.3: narrowness bias).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ResproutError

DRAWS = 4000


@dataclass(frozen=True)
class Difference:
    """Mean of a paired difference, its interval, and how many seeds it rests on."""

    mean: float
    low: float
    high: float
    seeds: int
    level: float = 0.95

    @property
    def verdict(self) -> str:
        """ "win" or "loss" only where the interval excludes zero."""
        if self.low > 0:
            return "win"
        return "loss" if self.high < 0 else "no difference shown"

    def __str__(self) -> str:
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {seeds}"


def paired(
    ours: NDArray[np.floating] | list[float],
    theirs: NDArray[np.floating] | list[float],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return the mean of ours - theirs with its bootstrap interval.

    Args:
        ours, theirs: (seeds,) one number a seed, or (seeds, samples) one number a seed and test sample; row i of both has
            the same seed.
        level: of the interval.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        ResproutError: shapes differ, are empty, hold NaN, or `level` is not between 0 and 1.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2) or a.size == 0:
        raise ResproutError(f"paired needs (seeds,) or (seeds, samples) of both arms, got {a.shape} and {b.shape}")
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ResproutError("paired needs finite numbers; an arm holds NaN or infinity")
    if not 0 < level < 1:
        raise ResproutError(f"level must be between 0 and 1, got {level:g}")
    gap = a - b
    gap = gap[:, None] if gap.ndim == 1 else gap
    seeds, samples = gap.shape
    mean = float(gap.mean())
    gap, alike = np.unique(
        gap, axis=1, return_counts=True
    )  # samples that differ alike are drawn together: the same law
    stretch = _stretch(seeds, level) if seeds > 1 else 1.0
    chance, means = np.random.default_rng(seed), np.empty(draws)
    for start in range(0, draws, 256):
        count = min(256, draws - start)
        columns = np.full((count, len(alike)), 1 / len(alike))
        if samples > 1:
            columns = chance.multinomial(samples, alike / samples, count) / samples
        each = columns @ gap.T  # (count, seeds): every seed's mean over this draw's samples
        rows = chance.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        middle = each.mean(1)
        means[start : start + count] = middle + stretch * ((rows * each).sum(1) - middle)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(mean, float(low), float(high), seeds, level)


def _stretch(seeds: int, level: float) -> float:
    """How much too narrow a percentile interval of so many seeds is."""
    from scipy.stats import norm, t

    tail = (1 + level) / 2
    return float(math.sqrt(seeds / (seeds - 1)) * t.ppf(tail, seeds - 1) / norm.ppf(tail))


def spread(values: list[float]) -> tuple[float, float]:
    """Return mean and standard deviation (of the sample; NaN for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
