"""How sparse a vector is, as one number in [0, 1) that neither scale nor repetition changes: the PQ index and Gini's.

Diao, Wang, Zhang, Yang, Ding, Tarokh: "Pruning Deep Neural Networks from a Sparsity Perspective", ICLR 2023,
arXiv:2302.05601 (PQ index, and how many entries it says must stay); Hurley, Rickard: "Comparing Measures of Sparsity", IEEE
Transactions on Information Theory 2009, arXiv:0811.4706 (Gini).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.errors import ResproutError

ROUNDING = 1e-9  # a count that is whole but for rounding is taken as whole


def check_norms(p: float, q: float) -> None:
    """Check that 0 < p <= 1 <= q and p < q.

    Raises:
        ResproutError: they are not.
    """
    if not (0 < p <= 1 <= q < math.inf and p < q):
        raise ResproutError(
            f"the PQ index needs 0 < p <= 1 <= q and p < q, got p={p!r} and q={q!r}; the paper has 0.5 and 1"
        )


def pq_index(weights: Tensor, p: float = 0.5, q: float = 1.0) -> float:
    """Return 1 - d^(1/q - 1/p) ||w||_p / ||w||_q of the d entries: 0 where all are equal, 1 - d^(1/q - 1/p) with one nonzero.

    Raises:
        ResproutError: no entries, NaN or infinity, or norms that make no index.
    """
    check_norms(p, q)
    w = _magnitudes(weights)
    return max(0.0, 1 - len(w) ** (1 / q - 1 / p) * _ratio(w, p, q))


def must_keep(weights: Tensor, p: float = 0.5, q: float = 1.0, eta: float = 0.0) -> int:
    """Return m, the least number of entries that must stay: ceil(d (1 + eta)^(-q/(q-p)) (1 - I)^(qp/(q-p))).

    With p = 0.5, q = 1, eta = 0 that is (sum of sqrt|w|)^2 / sum of |w|; k equal entries and zeros give k.

    Args:
        weights: d entries of any shape.
        p, q: the norms.
        eta: the share of ||w||_q^p that may be lost, in [0, inf); 0 is the paper's.

    Raises:
        ResproutError: as `pq_index`; or a negative eta.
    """
    check_norms(p, q)
    if not 0 <= eta < math.inf:
        raise ResproutError(f"eta must be 0 or more, got {eta!r}")
    w = _magnitudes(weights)
    # The dimension cancels: d (1 - I)^(qp/(q-p)) is the ratio of the norms to that power.
    exact = (1 + eta) ** (-q / (q - p)) * _ratio(w, p, q) ** (q * p / (q - p))
    return min(len(w), math.ceil(exact * (1 - ROUNDING)))


def may_go(
    weights: Tensor, p: float = 0.5, q: float = 1.0, eta: float = 0.0, gamma: float = 1.0, beta: float = 0.9
) -> int:
    """Return c, how many of the d smallest entries a round prunes: floor(d min(gamma (1 - m/d), beta)).

    Args:
        weights: d entries of any shape.
        p, q, eta: as in `must_keep`.
        gamma: how much of what may go does, above 0.
        beta: the largest share that goes at once, in (0, 1].

    Raises:
        ResproutError: as `must_keep`; or gamma or beta out of range.
    """
    if not 0 < gamma < math.inf or not 0 < beta <= 1:
        raise ResproutError(f"gamma must be above 0 and beta in (0, 1], got gamma={gamma!r} and beta={beta!r}")
    d = weights.numel()
    exact = min(gamma * (d - must_keep(weights, p, q, eta)), beta * d)
    return min(d, math.floor(exact * (1 + ROUNDING)))


def gini(weights: Tensor) -> float:
    """Return the Gini index of the magnitudes: 0 where all are equal, 1 - 1/d with one nonzero.

    Raises:
        ResproutError: no entries, NaN or infinity.
    """
    w = _magnitudes(weights).sort().values
    d, total = len(w), float(w.sum())
    if total == 0:
        return 0.0
    rank = torch.arange(1, d + 1, dtype=torch.float64)
    return max(0.0, 1 - 2 * float((w / total) @ (d - rank + 0.5)) / d)


def _magnitudes(weights: Tensor) -> Tensor:
    """The magnitudes, flat, in float64, the largest 1: no power of them overflows."""
    if weights.numel() == 0:
        raise ResproutError("the sparsity index of no weights is not defined: leave empty tensors out")
    w = weights.detach().reshape(-1).double().abs().cpu()
    largest = float(w.max())
    if not math.isfinite(largest):
        raise ResproutError("the weights hold NaN or infinity; check the network before asking how sparse it is")
    return w / largest if largest > 0 else w


def _ratio(w: Tensor, p: float, q: float) -> float:
    """||w||_p / ||w||_q; of zeros alone that of equal entries, which they are."""
    if not w.any():
        w = torch.ones_like(w)
    return float(w.pow(p).sum() ** (1 / p) / w.pow(q).sum() ** (1 / q))
