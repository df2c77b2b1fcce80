"""Calibration: a sampler that is calibrated by construction, hand figures, and scipy's divergence."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from resprout.core.errors import ResproutError
from resprout.evaluate.calibration import divergence, reliability
from resprout.evaluate.outputs import Outputs


def sampled(classes: int = 5, samples: int = 200_000) -> tuple[torch.Tensor, Outputs]:
    """Probabilities, and outputs whose labels are drawn from them."""
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, generator=g)
    p = logits.double().softmax(1)
    return p, Outputs(logits, torch.multinomial(p, 1, generator=g)[:, 0])


def test_a_perfectly_calibrated_sampler_has_no_error():
    _, said = sampled()
    assert said.calibration_error() < 0.01
    assert reliability(said).error == pytest.approx(said.calibration_error(), abs=1e-12)
    sharper = dataclasses.replace(said, logits=said.logits * 3)
    assert sharper.calibration_error() > 0.1


def test_reliability_by_hand():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]]))
    found = reliability(Outputs(logits, torch.tensor([0, 1, 1, 1])), bins=4)
    assert found.counts == (0, 0, 2, 2)
    assert found.right == (0, 0, 2, 1)
    assert found.confidence[2:] == pytest.approx((1.25, 1.8))
    assert found.error == pytest.approx((0.75 + 0.8) / 4)
    twice = found + found
    assert twice.counts == (0, 0, 4, 4)
    assert twice.error == pytest.approx(found.error)


def test_divergence_is_scipys_and_zero_for_the_truth():
    p, said = sampled(samples=500)
    other = torch.full_like(p, 0.2)
    assert divergence(p, said) == pytest.approx(0, abs=1e-9)
    assert divergence(other, said) == pytest.approx(float(rel_entr(other.numpy(), p.numpy()).sum(1).mean()))
    sure = torch.zeros_like(p).scatter_(1, said.labels[:, None], 1)
    assert divergence(sure, said) == pytest.approx(said.loss)
    assert np.isfinite(divergence(sure, said))


def test_bad_input_is_named():
    p, said = sampled(samples=10)
    with pytest.raises(ResproutError, match="bins"):
        reliability(said, 0)
    with pytest.raises(ResproutError, match="sum to 1"):
        divergence(p * 2, said)
    with pytest.raises(ResproutError, match="truth is"):
        divergence(p[:3], said)
    with pytest.raises(ResproutError, match="bins"):
        reliability(said, 3) + reliability(said, 4)
