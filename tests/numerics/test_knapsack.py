"""One option each: equal to trying all, with whole and with other costs."""

import itertools

import numpy as np
import pytest

from resprout.core.errors import ResproutError
from resprout.numerics.knapsack import choose


def brute(costs, losses, allowance):
    """The least loss within the allowance, by trying all."""
    found = [
        (sum(x[i] for x, i in zip(losses, picks, strict=True)), picks)
        for picks in itertools.product(*(range(len(c)) for c in costs))
        if sum(c[i] for c, i in zip(costs, picks, strict=True)) <= allowance
    ]
    return min(found)[0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("whole", [True, False])
def test_it_equals_brute_force_on_four_layers_of_six_levels(seed, whole):
    rng = np.random.default_rng(seed)
    costs = [sorted(rng.integers(0, 400, 6).tolist()) for _ in range(4)]
    costs = costs if whole else [[c * (1 + 1e-3) for c in cost] for cost in costs]
    losses = [sorted(rng.random(6).tolist(), reverse=True) for _ in range(4)]
    allowance = float(rng.integers(sum(c[0] for c in costs) + 4, 1600))
    picks = choose(costs, losses, allowance)
    assert sum(c[i] for c, i in zip(costs, picks, strict=True)) <= allowance
    found = sum(x[i] for x, i in zip(losses, picks, strict=True))
    assert found == pytest.approx(brute(costs, losses, allowance)) or not whole
    assert found <= brute(costs, losses, allowance * (1 - 4 / 20_000)) + 1e-9  # what rounding up may take


def test_what_cannot_be_afforded_is_the_cheapest():
    assert choose([[5, 3, 9], [2, 2]], [[1, 2, 3], [7, 6]], 1) == [1, 1]
    assert choose([[0, 1]], [[1.0, 0.0]], 0) == [0]


def test_wrong_numbers_are_refused():
    for costs, losses in (([[]], [[]]), ([[1.0]], [[float("nan")]]), ([[-1.0]], [[0.0]])):
        with pytest.raises(ResproutError, match="options"):
            choose(costs, losses, 1)
