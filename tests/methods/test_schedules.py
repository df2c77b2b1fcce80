"""Schedules at moments that can be calculated by hand."""

import pytest

from resprout.core.errors import ResproutError
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.schedule.cubic import Cubic
from resprout.methods.schedule.cyclic import Cyclic
from resprout.methods.schedule.geometric import Geometric
from resprout.methods.schedule.linear import Linear
from resprout.methods.schedule.one_shot import OneShot


@pytest.mark.parametrize(
    ("schedule", "t", "value"),
    [
        (Cubic(0.0, 0.8), 0.5, 0.7),  # 0.8 * (1 - 1/8): the paper's closed form
        (Linear(0.2, 0.6), 0.25, 0.3),
        (Cosine(1.0, 0.0), 0.5, 0.5),
        (Cosine(1.0, 0.0), 1 / 3, 0.75),
        (Cosine(1.0, 0.0, warmup=0.2), 0.1, 0.5),
        (Cosine(1.0, 0.0, warmup=0.2), 0.6, 0.5),
        (Geometric(0.0, 0.99), 0.5, 0.9),  # a tenth of 1, twice
        (OneShot(0.0, 0.9), 0.0, 0.9),
        (Constant(0.3), 0.7, 0.3),
        (Cyclic(0.0, 0.8, cycles=2), 0.25, 0.7),
        (Cyclic(0.0, 0.8, cycles=2), 0.5, 0.0),
        (Cyclic(0.0, 0.8, cycles=2), 0.75, 0.7),
    ],
)
def test_by_hand(schedule, t, value):
    assert schedule(t) == pytest.approx(value)


def test_refusals():
    with pytest.raises(ResproutError, match="constant factor"):
        Geometric(0.0, 1.0)
    with pytest.raises(ResproutError, match="warmup"):
        Cosine(1.0, 0.0, warmup=1.0)
