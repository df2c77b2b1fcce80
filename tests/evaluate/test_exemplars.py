"""Exemplars, tie rule, over-indexing, rates and Welch's test against planted answers, hand figures and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from resprout.core.errors import ResproutError
from resprout.evaluate import exemplars as ex


def planted(fragile: list[int], models: int = 7, samples: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, and populations of which the compressed one has the next class on the fragile samples, two networks aside."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (samples,), generator=g)
    dense = labels.repeat(models, 1)
    compressed = dense.clone()
    compressed[: models - 2, fragile] = (labels[fragile] + 1) % 4
    dense[0] = (labels + 2) % 4  # one odd network moves no mode
    return labels, dense, compressed


def test_the_planted_fragile_samples_are_found_exactly():
    fragile = [3, 17, 18, 41]
    labels, dense, compressed = planted(fragile)
    assert ex.exemplars(dense, compressed, 4).nonzero()[:, 0].tolist() == fragile
    assert ex.exemplars(dense, compressed, 4, labels).nonzero()[:, 0].tolist() == fragile
    assert ex.exemplars(dense, compressed, 4, (labels + 3) % 4).sum() == 0  # neither mode was right
    # pairs that disagree: 6 of 7 dense are right, 5 of 7 compressed have the next class
    assert ex.disagreement(dense, compressed, 4)[3] == pytest.approx(1 - 6 / 7 * 2 / 7)
    assert ex.agreement(dense, 4) == pytest.approx(6 / 7)
    assert ex.accuracies(dense, labels).tolist() == [0, *[1.0] * 6]


def test_equal_populations_have_no_exemplars_not_even_where_classes_tie():
    same = torch.randint(5, (6, 200), generator=torch.Generator().manual_seed(1))
    assert ex.modal(same, 5).sum(1).max() > 1, "this test needs ties"
    assert not ex.exemplars(same, same, 5).any()
    assert not ex.exemplars(same, same.flip(0), 5).any()


def test_ties_follow_the_documented_rule():
    dense = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 2], [1, 0, 3]])  # {0, 1}, {0}, {0, 1, 2, 3}
    compressed = torch.tensor([[1, 1, 2], [1, 2, 2], [2, 3, 2], [3, 0, 2]])  # {1}, {0, 1, 2, 3}, {2}
    assert not ex.exemplars(dense, compressed, 4).any()  # each time a class is modal in both
    compressed[:, 0] = torch.tensor([2, 2, 3, 3])  # {2, 3} and {0, 1}
    assert ex.exemplars(dense, compressed, 4).tolist() == [True, False, False]
    assert ex.exemplars(compressed, dense, 4).tolist() == [True, False, False]


def test_neither_the_order_of_networks_nor_of_classes_matters():
    g = torch.Generator().manual_seed(2)
    a, b = torch.randint(4, (5, 300), generator=g), torch.randint(4, (6, 300), generator=g)
    names = torch.tensor([2, 0, 3, 1])
    found = ex.exemplars(a, b, 4)
    assert 0 < found.sum() < 300
    assert torch.equal(ex.exemplars(names[a].flip(0), names[b], 4), found)


def test_over_indexing_by_hand():
    chosen = torch.tensor([True, True, False, False, False, False, False, False])
    attribute = torch.tensor([True, False, False, False, True, False, False, False])
    assert ex.over_indexing(chosen, attribute) == 2.0  # 1/2 against 2/8
    assert math.isnan(ex.over_indexing(torch.zeros(8, dtype=torch.bool), attribute))
    assert math.isnan(ex.over_indexing(chosen, torch.zeros(8, dtype=torch.bool)))


def test_rates_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    predicted = torch.tensor([[1, 0, 0, 0, 0, 0, 1, 1]])
    group = torch.tensor([True, True, False, False, True, True, True, False])
    found = ex.rates(predicted, labels, group)
    assert found.error[0] == pytest.approx(3 / 5)
    assert found.false_positive[0] == pytest.approx(1 / 2)
    assert found.false_negative[0] == pytest.approx(2 / 3)
    assert np.isnan(ex.rates(predicted, labels, group & (labels == 1)).false_positive).all()
    assert np.isnan(ex.rates(predicted, labels, group, classes=3).false_negative).all()


def test_recalls_by_hand_and_the_shift_that_all_share():
    labels = torch.tensor([0, 0, 1, 1, 1])
    predicted = torch.tensor([[0, 1, 1, 1, 0]])
    recall = ex.recalls(predicted, labels, 3)
    assert recall[0, :2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert math.isnan(recall[0, 2])
    assert ex.relative(recall, ex.accuracies(predicted, labels))[0, :2].tolist() == pytest.approx([-0.1, 2 / 3 - 0.6])


def test_the_contrast_is_the_difference_of_means_and_resamples_like_it():
    chance = np.random.default_rng(5)
    x, chosen = chance.normal(2, 1, (3, 400)), np.arange(400) < 80
    x[:, chosen] += 0.5
    made = ex.contrast(x, chosen)
    assert np.allclose(made.mean(1), x[:, chosen].mean(1) - x[:, ~chosen].mean(1))
    one = x[:1]  # the standard error of the mean of the contrast is that of the difference of two means
    error = math.sqrt(one[:, chosen].var() / 80 + one[:, ~chosen].var() / 320)
    assert ex.contrast(one, chosen).std() / math.sqrt(400) == pytest.approx(error, rel=1e-9)
    with pytest.raises(ResproutError, match="0 chosen of 400"):
        ex.contrast(x, np.zeros(400, dtype=bool))


def test_welch_by_hand_and_against_scipy():
    a, b = [1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0, 10.0]
    # means 2.5 and 6, variances 5/3 and 10: t = -3.5 / sqrt(5/12 + 2), df = (5/12 + 2)^2 / ((5/12)^2/3 + 2^2/4)
    found = ex.welch(a, b)
    assert found.t == pytest.approx(-3.5 / math.sqrt(5 / 12 + 2))
    assert found.df == pytest.approx((5 / 12 + 2) ** 2 / ((5 / 12) ** 2 / 3 + 1))
    chance = np.random.default_rng(0)
    for n, m in ((2, 2), (3, 9), (30, 5)):
        x, y = chance.normal(0, 1, n), chance.normal(0.5, 3, m)
        theirs = stats.ttest_ind(x, y, equal_var=False)
        found = ex.welch(x, y)
        assert (found.t, found.df, found.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-9)  # pyright: ignore


def test_identical_populations_give_at_most_five_percent_false_positives():
    """Over 1,000 classes without any effect, 8 networks on each side; the bound is that of the binomial at 99.9 %."""
    chance = np.random.default_rng(3)
    a, b = chance.normal(0.9, 0.02, (8, 1000)), chance.normal(0.9, 0.02, (8, 1000))
    false = sum(ex.welch(a[:, c], b[:, c]).p <= 0.05 for c in range(1000))
    assert 20 <= false <= stats.binom.ppf(0.999, 1000, 0.05)


def test_what_does_not_vary_is_not_tested():
    for other in (1.0, 0.9):
        found = ex.welch([1.0] * 5, [other] * 5)
        assert math.isnan(found.p)
        assert not found.p <= 0.05


def test_bad_input_is_named():
    with pytest.raises(ResproutError, match="networks, samples"):
        ex.modal(torch.zeros(3), 2)
    with pytest.raises(ResproutError, match="classes is 2"):
        ex.modal(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ResproutError, match="samples"):
        ex.exemplars(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64), 2)
    with pytest.raises(ResproutError, match="two or more"):
        ex.welch([1.0], [1.0, 2.0])
    with pytest.raises(ResproutError, match="NaN"):
        ex.welch([1.0, math.nan], [1.0, 2.0])
