"""The edge of chaos where it is known."""

import math

import pytest
import torch

from resprout.core.errors import ResproutError
from resprout.numerics.mean_field import edge, moments


def test_the_edge_is_where_papers_and_arithmetic_say():
    assert edge(torch.relu) == pytest.approx(math.sqrt(2), abs=1e-9)
    assert edge(lambda x: x) == pytest.approx(1)
    assert edge(torch.tanh) == pytest.approx(1, abs=1e-6)
    assert edge(torch.tanh, 0.2) == pytest.approx(1.304, abs=5e-4)  # by quadrature; papers print 1.298


def test_on_the_edge_small_differences_neither_grow_nor_die():
    sigma, q = edge(torch.tanh, 0.3), 1.0
    for _ in range(3000):
        q = 0.09 + sigma**2 * moments(torch.tanh, q)[0]
    assert sigma**2 * moments(torch.tanh, q)[1] == pytest.approx(1, abs=1e-3)


def test_relu_has_none_with_biases():
    with pytest.raises(ResproutError, match="no edge"):
        edge(torch.relu, 0.2)
