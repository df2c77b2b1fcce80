"""What reborn weights start with."""

import math

import pytest
import torch

from resprout.core.errors import ResproutError
from resprout.methods.fill.anchor import Anchor
from resprout.methods.fill.kaiming import Kaiming
from resprout.methods.fill.xavier import Xavier
from resprout.methods.fill.zero import Zero

WEIGHT = torch.ones(64, 32, 3, 3)


def values(fill, anchor=None):
    return fill(WEIGHT, anchor, torch.Generator().manual_seed(0))


def test_zero():
    assert torch.equal(values(Zero()), torch.zeros_like(WEIGHT))


def test_kaiming_variance():
    """2 / (32 * 9), within 2 % for 18,432 draws."""
    assert float(values(Kaiming()).std()) == pytest.approx(math.sqrt(2 / 288), rel=0.02)


def test_xavier_bound():
    """sqrt(6 / (32 * 9 + 64 * 9)), nearly reached."""
    assert float(values(Xavier()).abs().max()) == pytest.approx(math.sqrt(6 / 864), rel=1e-3)


def test_anchor():
    anchor = torch.randn(64, 32, 3, 3, dtype=torch.float64)
    assert torch.equal(values(Anchor(), anchor), anchor.float())
    with pytest.raises(ResproutError, match="anchor=dense_model"):
        values(Anchor())
