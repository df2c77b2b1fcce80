"""What a ranking is worth, and whether two systems are as good as each other.

nDCG: Järvelin, Kekäläinen: "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002 (gains are the grades, as trec_eval
has it). Equivalence: Schuirmann: "A comparison of the two one-sided tests procedure and the power approach for assessing the
equivalence of average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 1987.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..core.errors import ResproutError

Grades = Mapping[int, int]  # passage -> grade from 1


def ndcg(ranking: Sequence[int], grades: Grades, k: int = 10) -> float:
    """Return the discounted gain of the first `k` over that of the best ranking there is."""

    def dcg(gains: Sequence[int]) -> float:
        return sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))

    best = dcg(sorted(grades.values(), reverse=True))
    return dcg([grades.get(p, 0) for p in ranking[:k]]) / best if best else 0.0


def reciprocal_rank(ranking: Sequence[int], grades: Grades, k: int = 10) -> float:
    """Return 1 / the rank of the first relevant passage among the first `k`, else 0."""
    return next((1 / (i + 1) for i, p in enumerate(ranking[:k]) if p in grades), 0.0)


def recall(ranking: Sequence[int], grades: Grades, k: int = 100) -> float:
    """Return the share of the relevant passages that are among the first `k`."""
    return len(set(ranking[:k]) & set(grades)) / len(grades) if grades else 0.0


def equivalence(ours: ArrayLike, theirs: ArrayLike, bound: float) -> float:
    """Return p of the two one-sided paired t-tests (TOST): small where the mean difference lies surely within +-`bound`.

    Args:
        ours, theirs: one number per query, in the same order.
        bound: in the unit of the numbers, such as 5 % of the mean of `theirs`.

    Raises:
        ResproutError: fewer than two pairs, numbers that are not finite, a bound that is not positive, or scipy is missing.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or not bound > 0:
        raise ResproutError(
            f"equivalence needs two pairs at least and a bound above 0, got {a.shape}, {b.shape}, {bound}"
        )
    gap = a - b
    if not np.isfinite(gap).all():
        raise ResproutError("equivalence compares numbers, and a difference of ours and theirs is not finite")
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ResproutError("the test of equivalence needs scipy: pip install 'resprout[compare]'") from error
    mean, error_ = float(gap.mean()), float(gap.std(ddof=1)) / math.sqrt(len(gap))
    if error_ == 0:
        return 0.0 if abs(mean) < bound else 1.0
    lower = t.sf((mean + bound) / error_, len(gap) - 1)  # that the mean is not above -bound
    upper = t.sf((bound - mean) / error_, len(gap) - 1)  # that it is not below +bound
    return float(max(lower, upper))
