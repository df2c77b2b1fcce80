import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resprout.core.errors import ResproutError
from resprout.evaluate.sparsity_index import gini, may_go, must_keep, pq_index

NORMS = [(0.5, 1.0), (1.0, 2.0), (0.3, 1.7)]
VECTORS = st.lists(st.floats(-100, 100, allow_nan=False, width=32), min_size=1, max_size=40)


def by_definition(w: np.ndarray, p: float, q: float) -> float:
    norm = lambda r: np.sum(np.abs(w) ** r) ** (1 / r)  # noqa: E731
    return 1 - len(w) ** (1 / q - 1 / p) * norm(p) / norm(q)


def test_by_hand():
    """(sqrt 4 + sqrt 1)^2 / (4 + 1) = 9/5, so that two must stay; the index is 1 - 9/5 / 2."""
    w = torch.tensor([4.0, -1.0])
    assert pq_index(w) == pytest.approx(0.1)
    assert must_keep(w) == 2
    assert gini(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.25)  # (n + 1 - 2 (4 + 6 + 6 + 4) / 10) / n


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_the_closed_form_is_the_definition(p, q):
    w = np.random.default_rng(0).standard_t(3, 500)
    d, index = len(w), by_definition(w, p, q)
    assert pq_index(torch.from_numpy(w), p, q) == pytest.approx(index, abs=1e-12)
    for eta in (0.0, 0.2):
        keep = math.ceil(d * (1 + eta) ** (-q / (q - p)) * (1 - index) ** (q * p / (q - p)))
        assert must_keep(torch.from_numpy(w), p, q, eta) == keep
        for gamma, beta in ((1.0, 0.9), (0.5, 0.9), (3.0, 0.25)):
            go = math.floor(min(gamma * (d - keep), beta * d))
            assert may_go(torch.from_numpy(w), p, q, eta, gamma, beta) == go


def test_half_and_one_is_the_ratio_of_sums():
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    assert must_keep(w) == math.ceil(float(w.abs().sqrt().sum() ** 2 / w.abs().sum()))


@pytest.mark.parametrize(("p", "q"), NORMS)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 7), (3, 7), (49, 100), (7, 7), (333, 1000)])
def test_k_equal_entries_give_k_exactly(k, d, p, q):
    w = torch.zeros(d)
    w[:k] = 0.1
    assert must_keep(w, p, q) == k
    assert pq_index(w, p, q) == pytest.approx(1 - (k / d) ** (1 / p - 1 / q))
    assert may_go(w, p, q, beta=1.0) == d - k
    assert gini(w) == pytest.approx(1 - k / d)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30, 1e30])
def test_equal_weights_are_not_sparse_and_none_may_go(value):
    w = torch.full((50,), value, dtype=torch.float64)
    assert pq_index(w) == pytest.approx(0, abs=1e-12)
    assert (must_keep(w), may_go(w)) == (50, 0)
    assert gini(w) == pytest.approx(0, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(VECTORS, st.floats(0.01, 100))
def test_scale_and_repetition_change_nothing(values, scale):
    w = torch.tensor(values, dtype=torch.float64)
    if float(w.abs().max()) < 1e-6:
        return
    for index in (pq_index, gini):
        assert index(scale * w) == pytest.approx(index(w), abs=1e-9)
        assert index(torch.cat([w, w])) == pytest.approx(index(w), abs=1e-9)
        assert 0 <= index(w) < 1
    assert 1 <= must_keep(w) <= len(w)
    assert 0 <= may_go(w) <= 0.9 * len(w)


@pytest.mark.parametrize(
    ("weights", "arguments", "says"),
    [
        ([], {}, "no weights"),
        ([1.0, math.nan], {}, "NaN"),
        ([1.0], {"p": 1.0, "q": 1.0}, "p < q"),
        ([1.0], {"p": 2.0, "q": 3.0}, "0 < p <= 1"),
        ([1.0], {"eta": -0.1}, "eta"),
        ([1.0], {"beta": 1.5}, "beta"),
        ([1.0], {"gamma": 0.0}, "gamma"),
    ],
)
def test_bad_input_is_named(weights, arguments, says):
    with pytest.raises(ResproutError, match=says):
        may_go(torch.tensor(weights), **arguments)
