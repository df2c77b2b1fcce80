import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from resprout.core.errors import ResproutError
from resprout.evaluate.layer_error import best_mask, best_rounding, greedy_mask, one_opt, output_error
from resprout.evaluate.sqnr import (
    Symmetric,
    best_scale,
    kurtosis,
    pruning_sqnr,
    quantised,
    quantiser_sqnr,
    sparsity_of,
)

GAUSSIAN, LAPLACE = Symmetric("gaussian"), Symmetric("laplace")


@pytest.mark.parametrize(("sparsity", "decibels"), [(0.25, 20.78), (0.5, 11.47), (0.75, 5.58), (0.875, 3.03)])
def test_gaussian_pruning_as_in_the_catalogue(sparsity, decibels):
    assert GAUSSIAN.pruning_sqnr(sparsity) == pytest.approx(decibels, abs=0.005)


@pytest.mark.parametrize(("bits", "decibels"), [(2, 8.2), (4, 19.3), (6, 29.9), (8, 40.7)])
def test_gaussian_quantiser_as_in_the_catalogue(bits, decibels):
    """The catalogue says "about"; 29.83 and 40.57 for 6 and 8 bits are those of Max, 1960, and of Jayant and Noll, 1984."""
    assert GAUSSIAN.quantiser_sqnr(bits) == pytest.approx(decibels, abs=0.15)


def test_pruning_by_the_closed_forms():
    t = stats.norm.ppf(0.9)
    assert GAUSSIAN.pruning_sqnr(0.8) == pytest.approx(-10 * math.log10(0.8 - 2 * t * stats.norm.pdf(t)), abs=1e-9)
    t = -math.log(1 - 0.8)
    lost = 2 - math.exp(-t) * (t * t + 2 * t + 2)
    assert LAPLACE.pruning_sqnr(0.8) == pytest.approx(10 * math.log10(2 / lost), abs=1e-9)
    assert LAPLACE.pruning_sqnr(1.0) == pytest.approx(0)
    assert LAPLACE.pruning_sqnr(0.0) == math.inf


@pytest.mark.parametrize(
    ("law", "reference"),
    [
        (GAUSSIAN, stats.norm),
        (LAPLACE, stats.laplace),
        (Symmetric("student", 3), stats.t(3)),
        (Symmetric("student", 9), stats.t(9)),
    ],
)
@pytest.mark.parametrize("bits", [2, 3])
def test_the_quantiser_against_scipy(law, reference, bits):
    """The same integral by adaptive quadrature, the same range by Brent's method."""

    def noise(scale: float) -> float:
        levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) * scale
        cuts = [-np.inf, *(levels[:-1] + scale / 2), np.inf]
        pieces = []
        for level, left, right in zip(levels, cuts, cuts[1:], strict=False):
            parts = [(left, 0.0), (0.0, right)] if left < 0 < right else [(left, right)]
            pieces += [integrate.quad(lambda w, v=level: (w - v) ** 2 * reference.pdf(w), *p)[0] for p in parts]
        return sum(pieces)

    assert law.noise(bits, 0.7) == pytest.approx(noise(0.7), rel=1e-5)
    least = optimize.minimize_scalar(noise, bounds=(0.2, 4), method="bounded").fun
    assert law.quantiser_sqnr(bits) == pytest.approx(10 * math.log10(reference.var() / least), abs=1e-3)


def test_kurtosis():
    assert (GAUSSIAN.kurtosis, LAPLACE.kurtosis, Symmetric("student", 4).kurtosis) == (3, 6, math.inf)
    assert Symmetric("student", 10).kurtosis == pytest.approx(3 + 6 / 6)
    w = torch.from_numpy(np.random.default_rng(0).standard_t(8, 1000))
    assert kurtosis(w) == pytest.approx(stats.kurtosis(w.numpy(), fisher=False))
    assert math.isnan(kurtosis(torch.ones(3)))


def test_tensors_agree_with_their_distribution():
    draw = np.random.default_rng(0)
    for law, values in ((GAUSSIAN, draw.normal(size=100_000)), (LAPLACE, draw.laplace(size=100_000))):
        w = torch.from_numpy(values).view(100, 1000)
        assert pruning_sqnr(w, 0.75) == pytest.approx(law.pruning_sqnr(0.75), abs=0.1)
        for bits in (2, 4):
            assert quantiser_sqnr(w, bits) == pytest.approx(law.quantiser_sqnr(bits), abs=0.2)


def test_tensors_by_hand():
    w = torch.tensor([[3.0, -1.0], [2.0, 0.0]])
    assert pruning_sqnr(w, 0.5) == pytest.approx(10 * math.log10(14 / 1))
    assert pruning_sqnr(w, 1.0) == 0
    assert pruning_sqnr(w, 0.0) == math.inf
    assert quantised(torch.tensor([0.6, -9.0, 9.0, 0.4]), 2, 1.0).tolist() == [1, -2, 1, 0]
    assert quantiser_sqnr(torch.tensor([-2.0, -1.0, 0.0, 1.0]), 2) > 40  # the grid itself, but for the line search
    assert best_scale(torch.zeros(3), 4) == 0
    assert [sparsity_of(b) for b in (8, 4, 2)] == [0.5, 0.75, 0.875]


def test_the_scale_is_the_best_of_many():
    w = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    for bits in (2, 3, 4, 8):
        found = best_scale(w, bits)
        errors = [(quantised(w, bits, s) - w).square().sum() for s in np.linspace(0.3 * found, 3 * found, 2000)]
        assert (quantised(w, bits, found) - w).square().sum() <= 1.01 * min(errors)


def problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(3 * n, n)) @ draw.normal(size=(n, n))
    return x.T @ x, draw.normal(size=n)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "keep"), [(1, 1), (5, 0), (8, 3), (12, 6), (12, 2)])
def test_the_best_mask_against_all_masks(n, keep, seed):
    h, w = problem(n, seed)
    every = (np.isin(np.arange(n), kept) for kept in combinations(range(n), keep))
    least = min(output_error(h, np.where(m, 0, w)) for m in every)
    mask, error = best_mask(h, w, keep)
    assert mask.sum() == keep
    assert error == pytest.approx(output_error(h, np.where(mask, 0, w)), abs=1e-9)
    assert error == pytest.approx(least, rel=1e-9, abs=1e-9)
    assert error <= output_error(h, np.where(greedy_mask(h, w, keep), 0, w)) + 1e-9


def test_the_best_mask_where_inputs_depend_on_each_other():
    x = np.random.default_rng(0).normal(size=(4, 9))  # rank 4
    h, w = x.T @ x, np.random.default_rng(1).normal(size=9)
    least = min(output_error(h, np.where(np.isin(np.arange(9), kept), 0, w)) for kept in combinations(range(9), 3))
    assert best_mask(h, w, 3)[1] == pytest.approx(least)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "bits"), [(1, 2), (6, 2), (4, 3)])
def test_the_best_rounding_against_all_roundings(n, bits, seed):
    h, w = problem(n, seed)
    scale = best_scale(torch.from_numpy(w), bits)
    every = product(range(-(2 ** (bits - 1)), 2 ** (bits - 1)), repeat=n)
    least = min(output_error(h, w - scale * np.array(codes)) for codes in every)
    rounded, error = best_rounding(h, w, bits, scale)
    assert error == pytest.approx(least, rel=1e-6, abs=1e-9)
    assert output_error(h, w - rounded) == pytest.approx(error)
    plain = quantised(torch.from_numpy(w), bits, scale).numpy()
    assert error - 1e-9 <= one_opt(h, w, bits, scale)[1] <= output_error(h, w - plain) + 1e-9


def test_the_best_rounding_where_inputs_are_dead_or_twins():
    """Without the order and the slack, the search would try all 256 integers of each useless weight."""
    x = np.random.default_rng(0).normal(size=(50, 8))
    x[:, 2], x[:, 5] = 0, x[:, 4]
    x[:, 6] = x[:, 7] + 1e-6 * x[:, 6]
    h, w = x.T @ x, np.random.default_rng(1).normal(size=8)
    for bits in (4, 8):
        rounded, error = best_rounding(h, w, bits, 3.5 / 2 ** (bits - 1))
        assert error <= one_opt(h, w, bits, 3.5 / 2 ** (bits - 1))[1]
        assert output_error(h, w - rounded) == pytest.approx(error)
    assert best_rounding(np.zeros((3, 3)), w[:3], 4, 0.1)[1] == 0


def test_with_inputs_of_no_correlation_magnitude_and_nearest_are_best():
    w = np.array([3.0, -0.2, 1.0, -2.0, 0.6])
    assert best_mask(np.eye(5), w, 2)[0].tolist() == [True, False, False, True, False]
    assert best_rounding(np.eye(5), w, 4, 0.5)[0].tolist() == [3.0, -0.0, 1.0, -2.0, 0.5]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pruning_sqnr(torch.ones(0), 0.5), "empty"),
        (lambda: pruning_sqnr(torch.ones(2), 50), "0.5"),
        (lambda: quantiser_sqnr(torch.tensor([math.nan]), 4), "NaN"),
        (lambda: quantiser_sqnr(torch.ones(2), 1), "bits"),
        (lambda: sparsity_of(0), "bits"),
        (lambda: Symmetric("cauchy"), "gaussian"),
        (lambda: Symmetric("student", 2), "freedom"),
        (lambda: Symmetric("gaussian", 5), "freedom"),
        (lambda: best_mask(np.eye(3), np.ones(2), 1), "shape|H"),
        (lambda: best_mask(np.eye(30), np.ones(30), 1), "at most"),
        (lambda: best_mask(np.eye(3), np.ones(3), 4), "keep"),
        (lambda: best_rounding(np.eye(3), np.ones(3), 4, 0.0), "scale"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ResproutError, match=says):
        call()
