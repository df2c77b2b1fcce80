"""Which k of n to take so that a quadratic is least: all ways where there are few, else simulated annealing by swaps.

Kirkpatrick, Gelatt, Vecchi: "Optimization by Simulated Annealing", Science 1983. Not a method: `icbs.py` uses it.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEW = 5000  # ways that are all looked at


def quadratic(
    now: Array, whole: Array, gradient: Array, hessian: Array, steer: float = 1.0, ridge: float = 0.0, negative: bool = True
) -> tuple[Array, float]:  # fmt: skip
    """Return (Q, c) such that x Q x + c is what the loss changes by if weights are pruned where x is 1, and whole where it is 0.

    That is, with d = now - whole + whole x, -steer g d + 1/2 d H d + ridge |d|^2.

    Args:
        now: the weights as they are, (n,).
        whole: as they were before anything was pruned.
        gradient: g of the loss, where they are now.
        hessian: H, (n, n).
        steer, ridge: see above.
        negative: whether entries below zero count; the authors' code drops them (and all up to 1e-12).
    """
    off = now - whole
    q = whole[:, None] * hessian * whole / 2
    q += np.diag(whole * (hessian @ off) - steer * whole * gradient + ridge * whole * (2 * off + whole))
    q[(np.abs(q) if negative else q) <= 1e-12 * (np.abs(q).max(initial=0.0) if negative else 1.0)] = 0.0
    return q, float(off @ hessian @ off / 2 - steer * off @ gradient + ridge * off @ off)


def energy(q: Array, x: Array) -> float:
    """Return x Q x."""
    return float(x @ q @ x)


def solve(q: Array, start: Array, draw: np.random.Generator) -> Array:
    """Return x of zeros and ones, with as many ones as `start`, of low energy: never more than that of `start`."""
    n, k = len(start), int(start.sum())
    if math.comb(n, k) <= FEW:
        found = exhaustive(q, k)
        return found if energy(q, found) < energy(q, start) else start.copy()
    return anneal(q, start, draw)


def exhaustive(q: Array, k: int) -> Array:
    """Return the best x with k ones, by looking at all."""
    ways = np.array(list(combinations(range(len(q)), k)), dtype=np.int64).reshape(-1, k)
    x = np.zeros((len(ways), len(q)))
    np.put_along_axis(x, ways, 1.0, axis=1)
    return x[np.einsum("wi,ij,wj->w", x, q, x, optimize=True).argmin()]


def anneal(
    q: Array, start: Array, draw: np.random.Generator, hot: float = 0.001, cold: float = 100.0, factor: float = 1.1
) -> Array:
    """Return the best x seen while a one and a zero at a time change places, and after a last descent.

    The inverse temperature goes from `hot` to `cold`, times `factor` for each sweep of n proposals, in units of what the swaps of
    `start` change on average.
    """
    across = q + q.T
    own = np.diag(q).copy()
    np.fill_diagonal(across, 0.0)
    x = start.astype(np.float64)
    ones, zeros = np.flatnonzero(x == 1), np.flatnonzero(x == 0)
    if not len(ones) or not len(zeros):
        return x
    field = own + across @ x
    unit = np.abs(field[zeros, None] - field[ones] - across[np.ix_(zeros, ones)]).mean()
    best, least, now, beta = x.copy(), 0.0, 0.0, hot / (unit or 1.0)
    for _ in range(math.ceil(math.log(cold / hot) / math.log(factor))):
        picks = (draw.integers(len(zeros), size=len(x)), draw.integers(len(ones), size=len(x)), draw.random(len(x)))
        for a, b, chance in zip(*picks, strict=True):
            i, j = zeros[a], ones[b]
            change = field[i] - field[j] - across[i, j]
            if change <= 0 or chance < math.exp(-beta * change):
                field += across[i] - across[j]
                zeros[a], ones[b], now = j, i, now + change
                if now < least:
                    least, best = now, _as_vector(ones, len(x))
        beta *= factor
    return _descend(across, own, best)


def _as_vector(ones: NDArray[np.int64], n: int) -> Array:
    x = np.zeros(n)
    x[ones] = 1.0
    return x


def _descend(across: Array, own: Array, x: Array) -> Array:
    """Make the best swap until none is any good."""
    for _ in range(10 * len(x)):
        ones, zeros = np.flatnonzero(x == 1), np.flatnonzero(x == 0)
        field = own + across @ x
        change = field[zeros, None] - field[ones] - across[np.ix_(zeros, ones)]
        a, b = np.unravel_index(change.argmin(), change.shape)
        if change[a, b] >= -1e-15 * np.abs(field).max():
            break
        x[zeros[a]], x[ones[b]] = 1.0, 0.0
    return x
