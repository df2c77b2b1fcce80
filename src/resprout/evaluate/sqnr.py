"""How much of a tensor survives pruning, and how much rounding to few bits: the signal-to-noise ratio of both, and kurtosis.

Kuzmin, Nagel, van Baalen, Behboodi, Blankevoort: "Pruning vs Quantization: Which is Better?", NeurIPS 2023,
arXiv:2307.02973. Compared at equal compression of 16-bit weights, the cost of the mask left out: b bits against a sparsity
of 1 - b / 16.

The quantiser is symmetric, uniform, one scale for all: integers from -2^(b-1) to 2^(b-1) - 1, times the scale with the least
squared error. What this file does not do: quantise for a device (`deploy/quantise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import ResproutError, check_sparsity

BITS = 16  # of the weights that both are compared with
FINEST = 2.0**-12  # the smallest range that is tried, in parts of the largest weight
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)  # for the integrals over each interval
Floats = NDArray[np.floating[Any]]


def sparsity_of(bits: float) -> float:
    """Return the sparsity that compresses as much as `bits` do.

    Raises:
        ResproutError: not within (0, 16].
    """
    if not 0 < bits <= BITS:
        raise ResproutError(f"bits must be above 0 and at most {BITS}, got {bits!r}")
    return 1 - bits / BITS


def decibel(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise), infinite without noise."""
    return math.inf if noise <= 0 else 10 * math.log10(signal / noise) if signal > 0 else 0.0


# -- tensors -------------------------------------------------------------------------------------------------------


def kurtosis(weights: Tensor) -> float:
    """Return the fourth central moment over the square of the second: 3 for a Gaussian; NaN where all are equal."""
    w = _flat(weights)
    w = w - w.mean()
    square = float(w.square().mean())
    return float(w.pow(4).mean()) / square**2 if square > 0 else math.nan


def pruning_sqnr(weights: Tensor, sparsity: float) -> float:
    """Return the SQNR in dB after the round(sparsity * n) smallest of the n weights are zeroed.

    Raises:
        ResproutError: no weights, NaN or infinity, or a sparsity out of range.
    """
    squares = _flat(weights).square().sort().values
    gone = round(check_sparsity(sparsity) * len(squares))
    return decibel(float(squares.sum()), float(squares[:gone].sum()))


def quantised(weights: Tensor, bits: int, scale: float) -> Tensor:
    """Return the nearest points of the grid of `bits` and `scale`, in the weights' shape."""
    low, high = grid(bits)
    return (weights / scale).round().clamp(low, high) * scale


def best_scale(weights: Tensor, bits: int) -> float:
    """Return the scale with the least squared error, found by line search (0 where all weights are).

    Raises:
        ResproutError: no weights, NaN or infinity, or bits out of range.
    """
    w = _flat(weights)
    largest = float(w.abs().max())
    if largest == 0:
        return 0.0

    def error(scale: float) -> float:
        return float((quantised(w, bits, scale) - w).square().sum())

    return _search(error, largest / 2 ** (bits - 1), bits)


def quantiser_sqnr(weights: Tensor, bits: int) -> float:
    """Return the SQNR in dB after rounding to `bits` on the grid of the best scale.

    Raises:
        ResproutError: as `best_scale`.
    """
    w, scale = _flat(weights), best_scale(weights, bits)
    noise = (quantised(w, bits, scale) - w).square().sum() if scale else torch.zeros(())
    return decibel(float(w.square().sum()), float(noise))


def _flat(weights: Tensor) -> Tensor:
    if weights.numel() == 0:
        raise ResproutError("there is no signal in an empty tensor: leave it out")
    w = weights.detach().reshape(-1).double().cpu()
    if not torch.isfinite(w).all():
        raise ResproutError("the weights hold NaN or infinity; check the network first")
    return w


def grid(bits: int) -> tuple[int, int]:
    """Return the least and the largest integer of `bits`.

    Raises:
        ResproutError: not a whole number from 2 to 16.
    """
    if bits != int(bits) or not 2 <= bits <= BITS:
        raise ResproutError(f"bits must be a whole number from 2 to {BITS}, got {bits!r}")
    return -(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1


def _search(error: Callable[[float], float], widest: float, bits: int, points: int = 32) -> float:
    """The scale of least error, from that of the widest range down: by a grid, then finer grids around its best point."""
    low, high = math.log(FINEST), math.log(2.0 if bits < 4 else 1.05)
    best = widest
    for _ in range(4):
        tried = widest * np.exp(np.linspace(low, high, points))
        at = int(np.argmin([error(float(t)) for t in tried]))
        best = float(tried[at])
        low, high = math.log(tried[max(at - 1, 0)] / widest), math.log(tried[min(at + 1, points - 1)] / widest)
        points = 12
    return best


# -- distributions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symmetric:
    """A distribution of weights around 0: "gaussian", "laplace" or "student" with `freedom` degrees of it (above 2).

    The scale does not matter to any ratio; all figures are integrals of the density.
    """

    name: str
    freedom: float = math.inf

    def __post_init__(self) -> None:
        if self.name not in ("gaussian", "laplace", "student"):
            raise ResproutError(f"a distribution is 'gaussian', 'laplace' or 'student', got {self.name!r}")
        if (self.name == "student") != math.isfinite(self.freedom) or not self.freedom > 2:
            raise ResproutError(
                f"freedom is that of 'student' and above 2, or its weights have no finite power; got {self.freedom!r} for "
                f"{self.name!r}"
            )

    @cached_property
    def _law(self) -> Any:
        from scipy import stats

        return {"gaussian": stats.norm, "laplace": stats.laplace}.get(self.name) or stats.t(self.freedom)

    @cached_property
    def _constant(self) -> float:
        return float(self._law.pdf(0.0))

    def density(self, w: Floats) -> Floats:
        """Return the probability density at `w`, of the standard form (scale 1)."""
        if self.name == "gaussian":
            return self._constant * np.exp(-w * w / 2)
        if self.name == "laplace":
            return self._constant * np.exp(-np.abs(w))
        return self._constant * (1 + w * w / self.freedom) ** (-(self.freedom + 1) / 2)

    @property
    def power(self) -> float:
        """The mean square."""
        return float(self._law.var())

    @property
    def kurtosis(self) -> float:
        """3 for the Gaussian, 6 for Laplace's, infinite for Student's with 4 degrees of freedom or fewer."""
        return math.inf if self.freedom <= 4 else 3 + float(self._law.stats(moments="k"))

    def pruning_sqnr(self, sparsity: float) -> float:
        """Return the SQNR in dB after the share `sparsity` of least magnitude is zeroed."""
        threshold = float(self._law.ppf((1 + check_sparsity(sparsity)) / 2))
        lost = (
            self.power if math.isinf(threshold) else 2 * self._between(np.zeros(1), np.array([threshold]), np.zeros(1))
        )
        return decibel(self.power, lost)

    def noise(self, bits: int, scale: float) -> float:
        """Return the mean squared error of rounding and clipping on the grid of `bits` and `scale`."""
        low, high = grid(bits)
        levels = np.arange(low, high + 1) * scale
        edges = np.concatenate([[low - 0.5], np.arange(low, high) + 0.5, [high + 0.5]]) * scale
        # The cell around 0 is split: Laplace's density has a kink there.
        left, right = np.insert(edges[:-1], 1 - low, 0.0), np.insert(edges[1:], -low, 0.0)
        error = self._between(left, right, np.insert(levels, -low, 0.0))
        return error + self._beyond(edges[-1], levels[-1]) + self._beyond(-edges[0], -levels[0])

    def _between(self, left: Floats, right: Floats, level: Floats) -> float:
        """The squared error of the weights in each interval, which all become its level."""
        half = (right - left)[:, None] / 2
        w = (left + right)[:, None] / 2 + half * NODES
        return float((half * WEIGHTS * (w - level[:, None]) ** 2 * self.density(w)).sum())

    def _beyond(self, start: float, level: float) -> float:
        """The squared error of the weights above `start`, which become `level`; the half-line is mapped to an interval."""
        x = (1 + NODES) / 2
        w = start + x / (1 - x)
        return float((WEIGHTS / 2 / (1 - x) ** 2 * (w - level) ** 2 * self.density(w)).sum())

    def quantiser_sqnr(self, bits: int) -> float:
        """Return the SQNR in dB of rounding to `bits` with the best scale."""
        grid(bits)
        reach = math.sqrt(self.power) * (12 if math.isinf(self.freedom) else 72)
        scale = _search(lambda s: self.noise(bits, s), reach / 2 ** (bits - 1), bits)
        return decibel(self.power, self.noise(bits, scale))
