import numpy as np
import pytest

from resprout.compare.statistics import Difference, paired, spread
from resprout.core.errors import ResproutError


def test_equal_arms_differ_by_nothing():
    found = paired([91.0, 92.0, 90.5], [91.0, 92.0, 90.5])
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert found.verdict == "no difference shown"


def test_a_constant_difference_is_a_win_and_the_other_way_a_loss():
    ours, theirs = [91.0, 92.0, 90.5], [90.0, 91.0, 89.5]
    assert paired(ours, theirs).verdict == "win"
    assert paired(theirs, ours).verdict == "loss"
    assert str(paired(ours, theirs)) == "+1.00 [+1.00, +1.00], 3 seeds"


def test_the_interval_over_seeds_is_about_that_of_students_t():
    gap = np.array([0.29, 1.54, 0.89, 0.99])  # ResNet-20 at 98 %, docs/recipe.md
    found = paired(gap, np.zeros(4), draws=20000)
    half = 3.182 * gap.std(ddof=1) / 2  # t of 3 degrees of freedom, table
    assert found.mean == pytest.approx(0.9275)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_false_wins_are_as_rare_as_promised(seeds):
    chance = np.random.default_rng(seeds)
    false = sum(
        paired(chance.normal(size=seeds), chance.normal(size=seeds), draws=400).verdict != "no difference shown"
        for _ in range(400)
    )
    assert false / 400 < 0.09  # 5 % promised; an uncorrected bootstrap has 22 % with three seeds


def test_one_seed_resamples_samples():
    ours, theirs = np.zeros((1, 1000)), np.zeros((1, 1000))
    ours[0, :900], theirs[0, :880] = 1, 1
    found = paired(ours, theirs)
    assert found.mean == pytest.approx(0.02)
    assert found.verdict == "win"  # 20 of 1000 images, all one way
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.02 * 0.98 / 1000), rel=0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "level", "says"),
    [
        ([1.0, 2.0], [1.0], 0.95, "paired needs"),
        ([], [], 0.95, "paired needs"),
        ([1.0, float("nan")], [1.0, 2.0], 0.95, "NaN"),
        ([1.0, 2.0], [1.0, 2.0], 95, "level"),
    ],
)
def test_bad_input_is_named(ours, theirs, level, says):
    with pytest.raises(ResproutError, match=says):
        paired(ours, theirs, level=level)


def test_spread_of_one_is_not_a_number():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2)))
    assert np.isnan(spread([1.0])[1])


def test_the_interval_decides_not_the_mean():
    assert Difference(1.0, -0.1, 2.1, 3).verdict == "no difference shown"
