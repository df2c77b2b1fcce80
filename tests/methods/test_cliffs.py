"""Cliffs of curves with a known corner."""

import pytest

from resprout.methods.cliff.residual import Residual
from resprout.methods.cliff.two_segment import TwoSegment

BOTH = pytest.mark.parametrize("cliff", [TwoSegment(), Residual()])
SPARSITY = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
CORNER = [0.90, 0.89, 0.88, 0.87, 0.86, 0.66, 0.46, 0.26]  # a slope of -0.1, then of -2


@BOTH
def test_a_corner_without_noise(cliff):
    assert cliff(SPARSITY, CORNER) == 0.4
    assert cliff(SPARSITY, [100 * a for a in CORNER]) == 0.4  # percent or fractions


def test_the_papers_one_shot_curve():
    """The last two points fall together; the third line misses 98 % by three times what it misses itself."""
    sparsity = [0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999]
    accuracy = [92.43, 92.41, 92.27, 91.93, 91.03, 89.53, 81.08]
    assert TwoSegment()(sparsity, accuracy) == 0.99
    assert Residual()(sparsity, accuracy) == 0.97


@BOTH
@pytest.mark.parametrize(
    "accuracy", [[0.9] * 8, [0.9 - 0.1 * s for s in SPARSITY], [0.5 + 0.1 * s for s in SPARSITY], [0.1, 0.2, 0.3]]
)
def test_no_cliff(cliff, accuracy):
    assert cliff(SPARSITY[: len(accuracy)], accuracy) is None


def test_a_rise_is_no_fall():
    assert Residual()(SPARSITY, [0.5, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9]) is None
    assert TwoSegment()(SPARSITY, [0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]) is None
