"""The least error that a layer's output can have with k weights, or with integers of b bits: exact, for small layers.

Kuzmin, Nagel, van Baalen, Behboodi, Blankevoort: "Pruning vs Quantization: Which is Better?", NeurIPS 2023,
arXiv:2307.02973 (the two problems; the paper bounds the second by a semidefinite relaxation, which is not here: the search
below is exact). Schnorr, Euchner: "Lattice basis reduction", Mathematical Programming 1994 (the order of that search).

One output of a layer with weights w and inputs X has the error |X w - X v|^2 = (w - v)^T H (w - v), with H = X^T X.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ResproutError
from .sqnr import grid

EXACT = 1e-9  # of the power of the output
LARGEST = 24  # weights of a problem: the search may have to look at 2^n masks
Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]


def output_error(h: Floats, change: Floats) -> float:
    """Return change^T H change, at least 0."""
    return max(0.0, float(change @ h @ change))


def best_mask(h: Floats, weights: Floats, keep: int) -> tuple[Flags, float]:
    """Return the mask with `keep` ones whose output error is least, and that error; by branch and bound.

    Args:
        h: Gram matrix of the inputs, (n, n).
        weights: (n,).
        keep: how many stay as they are; the others become zero.

    Raises:
        ResproutError: shapes that do not fit, more than `LARGEST` weights, or a count out of range.
    """
    h, w = _problem(h, weights)
    n = len(w)
    if not 0 <= keep <= n:
        raise ResproutError(f"keep must be from 0 to the {n} weights, got {keep!r}")
    # H = (H - D) + D with D diagonal: what is certain to be lost in D adds up weight by weight.
    diagonal = max(0.0, float(np.linalg.eigvalsh(h)[0])) * (1 - 1e-6)
    rest, own = h - diagonal * np.eye(n), diagonal * w * w
    order = np.argsort(-np.diag(h) * w * w)  # what matters is decided first
    mask = greedy_mask(h, w, keep)
    best = [output_error(h, np.where(mask, 0.0, w)), mask]

    def bound(gone: Flags, open_: Flags, need: int) -> float:
        """No mask that drops `gone` and `need` of `open_` has less: the open changes may be any real numbers."""
        change = w[gone]
        least = float(change @ rest[np.ix_(gone, gone)] @ change)
        if open_.any() and gone.any():
            across = rest[np.ix_(open_, gone)] @ change
            least -= float(across @ np.linalg.lstsq(rest[np.ix_(open_, open_)], across, rcond=None)[0])
        return max(0.0, least) + float(own[gone].sum() + np.sort(own[open_])[:need].sum())

    def search(depth: int, gone: Flags, open_: Flags, need: int) -> None:
        if need == 0 or need == int(open_.sum()):
            whole = gone | open_ if need else gone
            error = output_error(h, np.where(whole, w, 0.0))
            if error < best[0]:
                best[:] = [error, ~whole]
            return
        if bound(gone, open_, need) >= best[0] * (1 - 1e-12):
            return
        i = order[depth]
        left = open_.copy()
        left[i] = False
        search(depth + 1, gone, left, need)  # it stays: the likelier for what matters
        dropped = gone.copy()
        dropped[i] = True
        search(depth + 1, dropped, left, need - 1)

    search(0, np.zeros(n, bool), np.ones(n, bool), n - keep)
    return best[1], best[0]


def greedy_mask(h: Floats, weights: Floats, keep: int) -> Flags:
    """Return the mask that drops one weight after another, each time the one that costs least."""
    h, w = np.asarray(h, float), np.asarray(weights, float)
    mask, change = np.ones(len(w), bool), np.zeros(len(w))
    for _ in range(len(w) - keep):
        cost = 2 * w * (h @ change) + np.diag(h) * w * w
        i = int(np.argmin(np.where(mask, cost, math.inf)))
        mask[i], change[i] = False, w[i]
    return mask


def best_rounding(h: Floats, weights: Floats, bits: int, scale: float) -> tuple[Floats, float]:
    """Return the weights on the grid whose output error is least, and that error; by depth-first search.

    With H = R^T R and R triangular, the error is a sum over weights, each term of which knows only those decided before it:
    the nearest integers are tried first, and what cannot be better than the best so far is left. Exact to `EXACT` of the
    output's power.

    Args:
        h: Gram matrix of the inputs, (n, n).
        weights: (n,).
        bits: of the grid: integers from -2^(b-1) to 2^(b-1) - 1.
        scale: of the integers.

    Raises:
        ResproutError: as `best_mask`; or bits or scale out of range.
    """
    h, w = _problem(h, weights)
    low, high = grid(bits)
    if not 0 < scale < math.inf:
        raise ResproutError(f"scale must be above 0 and finite, got {scale!r}")
    best, least = one_opt(h, w, bits, scale)
    slack = EXACT * output_error(h, w)
    order = _weakest_first(h)
    n, part = len(order), h[np.ix_(order, order)]
    # A little on the diagonal lets inputs through that depend on each other.
    upper = np.linalg.cholesky(part + 1e-13 * np.trace(part) * np.eye(n)).T * scale if n else np.zeros((0, 0))
    target, found, integers = w[order] / scale, np.zeros(n), np.arange(low, high + 1)

    def search(i: int, spent: float) -> None:
        nonlocal best, least
        if i < 0:
            tried = best.copy()
            tried[order] = found * scale
            if (error := output_error(h, w - tried)) < least:
                best, least = tried, error
            return
        rest = float(upper[i, i + 1 :] @ (target[i + 1 :] - found[i + 1 :]))
        away = np.abs(target[i] + rest / upper[i, i] - integers)
        for at in np.argsort(away, kind="stable"):
            cost = spent + float(upper[i, i] * away[at]) ** 2
            if cost >= least - slack:
                return
            found[i] = integers[at]
            search(i - 1, cost)

    search(n - 1, 0.0)
    return best, least


def _weakest_first(h: Floats) -> NDArray[np.int64]:
    """The inputs that are not dead, in the order in which each has the least left that those before it do not explain.

    The search goes from the last to the first: what matters is decided early.
    """
    left, order = h.copy(), []
    todo = [i for i in range(len(h)) if h[i, i] > 0]
    while todo:
        i = min(todo, key=lambda j: left[j, j])
        order.append(i)
        todo.remove(i)
        if left[i, i] > 1e-12 * h[i, i]:
            left -= np.outer(left[:, i], left[i]) / left[i, i]
    return np.array(order, dtype=np.int64)


def one_opt(h: Floats, weights: Floats, bits: int, scale: float) -> tuple[Floats, float]:
    """Return the weights on the grid that no change of a single one improves, from the nearest ones on, and the error.

    Raises:
        ResproutError: as `best_rounding`, but for the number of weights.
    """
    h, w = np.asarray(h, float), np.asarray(weights, float)
    low, high = grid(bits)
    codes = np.clip(np.rint(w / scale), low, high)
    diagonal = np.maximum(np.diag(h), 1e-300)
    for _ in range(100 * len(w)):
        pull = h @ (w - codes * scale)
        tried = np.clip(np.rint(codes + pull / (diagonal * scale)), low, high)
        step = (tried - codes) * scale
        gain = 2 * step * pull - diagonal * step * step
        i = int(np.argmax(gain))
        if gain[i] <= 1e-12 * output_error(h, w - codes * scale):
            break
        codes[i] = tried[i]
    return codes * scale, output_error(h, w - codes * scale)


def _problem(h: Floats, weights: Floats) -> tuple[Floats, Floats]:
    h, w = np.asarray(h, float), np.asarray(weights, float)
    if w.ndim != 1 or len(w) == 0 or h.shape != (len(w), len(w)):
        raise ResproutError(f"a layer's problem is H (n, n) and weights (n,), got {h.shape} and {w.shape}")
    if len(w) > LARGEST:
        raise ResproutError(
            f"the exact search is for {LARGEST} weights at most, got {len(w)}: take a part of the layer"
        )
    if not np.isfinite(h).all() or not np.isfinite(w).all():
        raise ResproutError("H or the weights hold NaN or infinity")
    return h, w
