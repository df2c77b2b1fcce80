"""Selection against a stable sort, and the rounding of wishes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resprout.core import select
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.select import Elementwise, apportion, greedy, level, top


def brute(scores, keep, among=None):
    """The definition: a stable sort of everything, position deciding ties."""
    flat = torch.cat([select.dense(s).reshape(-1) for s in scores.values()])
    if among is not None:
        flat = flat.masked_fill(~torch.cat([m.reshape(-1) for m in among.values()]), -math.inf)
    marked = torch.zeros(len(flat), dtype=torch.bool)
    marked[flat.argsort(descending=True, stable=True)[:keep]] = True
    parts = marked.split([s.numel() for s in scores.values()])
    return Masks({n: p.view(s.shape) for (n, s), p in zip(scores.items(), parts, strict=True)})


def tensors(seed=0, levels=None, sizes=((37, 5), (700,), (4, 3, 3, 3))):
    g = torch.Generator().manual_seed(seed)
    out = {str(i): torch.randn(s, generator=g) for i, s in enumerate(sizes)}
    return out if levels is None else {n: (t * levels).round() / levels for n, t in out.items()}


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("keep", [0, 1, 2, 99, 500, 991, 992, 993])
def test_top_is_a_stable_sort(levels, keep):
    scores = tensors(levels=levels)
    assert top(scores, keep) == brute(scores, keep)


@pytest.mark.parametrize("keep", [0, 1, 150, 300])
@pytest.mark.parametrize("levels", [None, 2])
def test_among(keep, levels):
    scores = tensors(levels=levels)
    among = Masks({n: t > 0.2 for n, t in tensors(seed=1).items()})
    chosen = top(scores, keep, among)
    assert chosen == brute(scores, keep, among)
    assert chosen <= among


def test_many_chunks_and_both_ways_out(monkeypatch):
    """Small chunks and samples: brackets that hold, brackets that are crowded by ties, brackets that mislead."""
    monkeypatch.setattr(select, "CHUNK", 1 << 10)
    monkeypatch.setattr(select, "SAMPLE", 1 << 8)
    for levels in (None, 0.5, 20):
        scores = tensors(levels=levels, sizes=((20_000,), (77, 13), (9_001,)))
        for keep in (3, 300, 15_000, 30_001):
            assert top(scores, keep) == brute(scores, keep)
    liar = torch.zeros(50_000)
    liar[1::2] = torch.randn(25_000)  # strides meet zeros only, or almost so
    assert top({"a": liar}, 5_000) == brute({"a": liar}, 5_000)


def test_elementwise_is_read_in_place():
    scores = tensors()
    lazy = {n: Elementwise(torch.abs, (t,)) for n, t in scores.items()}
    assert top(lazy, 77) == brute({n: t.abs() for n, t in scores.items()}, 77)
    product = {n: Elementwise(torch.mul, (t, t.flip(0))) for n, t in scores.items()}
    assert top(product, 77) == brute({n: t * t.flip(0) for n, t in scores.items()}, 77)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(dtype):
    scores = {n: t.to(dtype) for n, t in tensors().items()}
    assert top(scores, 321) == brute(scores, 321)


def test_negative_zero_ties_with_zero():
    assert top({"a": torch.tensor([-0.0, 0.0, -1.0])}, 1)["a"].tolist() == [True, False, False]


def test_views_with_strides():
    scores = {"a": torch.randn(30, 20, generator=torch.Generator().manual_seed(3)).t()}
    assert top(scores, 100) == brute(scores, 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_by_name(bad):
    scores = tensors()
    scores["1"][5] = bad
    with pytest.raises(ResproutError, match="'1' hold NaN or infinity"):
        top(scores, 10)
    outside = Masks({n: torch.isfinite(t) for n, t in scores.items()})
    assert top(scores, 10, outside) == brute({n: t.nan_to_num(0, 0, 0) for n, t in scores.items()}, 10, outside)


def test_huge_finite_scores_are_not_infinite():
    scores = {"a": torch.tensor([3e38, 3e38, -3e38, 1.0])}
    assert top(scores, 2)["a"].tolist() == [True, True, False, False]


def test_too_many_asked_for():
    with pytest.raises(ResproutError, match="cannot keep 5 of 4"):
        top({"a": torch.ones(4)}, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.5, 0.5000001, 2.0]), max_size=12), min_size=1), st.data())
def test_any_scores(rows, data):
    scores = {str(i): torch.tensor(r) for i, r in enumerate(rows)}
    keep = data.draw(st.integers(0, sum(map(len, rows))))
    chosen = top(scores, keep)
    assert chosen.alive == keep
    assert chosen == brute(scores, keep)
    assert keep == 0 or top(scores, keep - 1) <= chosen


WISH = st.floats(0, 1e6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WISH, st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=8), st.data())
def test_apportion_is_exact_and_within_bounds(rows, data):
    names = [str(i) for i in range(len(rows))]
    wishes = dict(zip(names, (w for w, _, _ in rows), strict=True))
    lower = dict(zip(names, (low for _, low, _ in rows), strict=True))
    upper = {n: lower[n] + r[2] for n, r in zip(names, rows, strict=True)}
    total = data.draw(st.integers(sum(lower.values()), sum(upper.values())))
    counts = apportion(wishes, total, lower, upper)
    assert sum(counts.values()) == total
    assert all(lower[n] <= counts[n] <= upper[n] for n in names)


def test_wishes_that_fit_are_kept():
    bounds = dict.fromkeys("abc", 0), dict.fromkeys("abc", 10)
    assert apportion({"a": 1.0, "b": 7.0, "c": 4.0}, 12, *bounds) == {"a": 1, "b": 7, "c": 4}


def test_largest_remainder():
    bounds = dict.fromkeys("abc", 0), dict.fromkeys("abc", 10)
    assert apportion({"a": 1.2, "b": 2.5, "c": 2.3}, 6, *bounds) == {"a": 1, "b": 3, "c": 2}
    assert apportion({"a": 1.0, "b": 1.0, "c": 1.0}, 4, *bounds) == {"a": 2, "b": 1, "c": 1}


def test_zero_wishes_leave_room_that_is_filled():
    assert apportion({"a": 1.0, "b": 0.0, "c": 0.0}, 16, dict.fromkeys("abc", 0), {"a": 10, "b": 10, "c": 20}) == {
        "a": 10,
        "b": 2,
        "c": 4,
    }


@pytest.mark.parametrize("wish", [-1.0, math.nan, math.inf])
def test_apportion_refuses(wish):
    with pytest.raises(ResproutError, match="the wish for 'a'"):
        apportion({"a": wish}, 1, {"a": 0}, {"a": 2})
    with pytest.raises(ResproutError, match="cannot be spread"):
        apportion({"a": 1.0}, 3, {"a": 0}, {"a": 2})


def test_level_pays_prices():
    counts = level({"a": 1.0, "b": 1.0}, 9, {"a": 0, "b": 0}, {"a": 2, "b": 9}, {"a": 2.0, "b": 1.0})
    assert counts == pytest.approx({"a": 2.0, "b": 5.0})


def test_greedy_ranks_by_score_per_price():
    scores = {"A": torch.tensor([4.0, 3.0]), "B": torch.tensor([1.9, 1.0])}
    picks = greedy(scores, {"A": 2.0, "B": 1.0}, 3.0)
    assert dict(picks) == {"A": 1, "B": 1}
    assert picks.chosen["A"].tolist() == [True, False]


def test_greedy_pays_the_settled_first():
    scores = {"A": torch.tensor([4.0, 3.0]), "B": torch.tensor([1.9, 1.0])}
    among = Masks({"A": torch.tensor([False, True]), "B": torch.tensor([True, True])})
    assert dict(greedy(scores, {"A": 1.0, "B": 1.0}, 2.0, among, {"A": 1, "B": 0})) == {"A": 2, "B": 0}


def paid(scores, prices, allowance):
    """The definition: rank by score per price, stably, and buy from the top until the next one is too dear."""
    names = [(n, i) for n, s in scores.items() for i in range(s.numel())]
    worth = torch.cat([s.reshape(-1) / prices[n] for n, s in scores.items()])
    masks = {n: torch.zeros(s.numel(), dtype=torch.bool) for n, s in scores.items()}
    spent = 0.0
    for j in worth.argsort(descending=True, stable=True).tolist():
        n, i = names[j]
        spent += prices[n]
        if spent > allowance + 1e-6:
            break
        masks[n][i] = True
    return Masks({n: m.view(scores[n].shape) for n, m in masks.items()})


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 3.0]), max_size=10), min_size=2, max_size=4),
    st.data(),
)
def test_greedy_with_prices_is_the_definition(rows, data):
    scores = {str(i): torch.tensor(r) for i, r in enumerate(rows)}
    prices = {n: data.draw(st.sampled_from([1.0, 2.0, 8.0, 0.25])) for n in scores}
    allowance = data.draw(st.floats(0, sum(prices[n] * s.numel() for n, s in scores.items())))
    assert greedy(scores, prices, allowance).chosen == paid(scores, prices, allowance)


@pytest.mark.parametrize("levels", [None, 2])
def test_greedy_with_prices_on_many_chunks(levels, monkeypatch):
    monkeypatch.setattr(select, "CHUNK", 1 << 10)
    monkeypatch.setattr(select, "SAMPLE", 1 << 8)
    scores = {n: t.abs() for n, t in tensors(levels=levels, sizes=((6_000,), (77, 13), (3_001,))).items()}
    prices = {"0": 1.0, "1": 64.0, "2": 3.5}
    for allowance in (0.5, 40.0, 3_000.0, 60_000.0, 1e9):
        assert greedy(scores, prices, allowance).chosen == paid(scores, prices, allowance)


def test_order_is_the_power_that_prices_divide():
    scores, prices = {"A": torch.tensor([3.0]), "B": torch.tensor([2.0])}, {"A": 2.0, "B": 1.0}
    assert dict(greedy(scores, prices, 2.0, order=1)) == {"A": 0, "B": 1}  # 1.5 and 2 per price
    assert dict(greedy(scores, prices, 2.0, order=2)) == {"A": 1, "B": 0}  # 4.5 and 4
