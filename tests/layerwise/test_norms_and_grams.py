"""What the inputs of a layer amount to: Gram matrices, norms, and the factor that is made where the matrix was."""

import pytest
import torch
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.numerics import curvature
from resprout.numerics.curvature import columns, damped, factor, grams, norms


@pytest.mark.parametrize("size", [1, 2, 9, 64, 257, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_factor_of_the_inverse_is_made_in_place(size, dtype, monkeypatch):
    monkeypatch.setattr(curvature, "CACHED", 100)  # so that rows are turned around in many pieces
    monkeypatch.setattr(curvature, "SMALL", 8)
    x = torch.randn(2 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    h = x.T @ x + torch.eye(size)
    own = h.to(dtype, copy=True)
    upper = factor(own)
    assert upper.data_ptr() == own.data_ptr()
    assert torch.equal(upper, upper.triu())
    assert (upper.diagonal() > 0).all()
    upper = upper.double()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert torch.allclose(upper.T @ upper @ h, torch.eye(size).double(), atol=tolerance)


def test_what_is_not_positive_is_refused():
    for h in (torch.zeros(5, 5), -torch.eye(300), torch.full((4, 4), torch.nan)):
        with pytest.raises(ResproutError, match="not positive"):
            factor(h)


def test_damping_is_of_the_mean_of_the_diagonal():
    h = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)])
    assert damped(h, 0.5) is h
    assert h.tolist() == [[[2.0, 0.0], [0.0, 4.0]], [[0.5, 0.0], [0.0, 0.5]]]


@pytest.mark.parametrize("columns", [8, 29, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_of_a_gram_matrix_is_the_other_half(columns, dtype, monkeypatch):
    monkeypatch.setattr(curvature, "STRIPE", 8)
    g = torch.Generator().manual_seed(0)
    data = [torch.randn(5, 7, columns, generator=g) for _ in range(2)]
    model = nn.Sequential(nn.Linear(columns, 3))
    probe = Probe(model, Masks.dense(model), data, lambda m, x: m(x).mean(), training=False)
    read = torch.cat(data).flatten(0, 1).double()
    found = grams(probe, ["0.weight"], dtype)["0.weight"]
    assert found.dtype == dtype
    assert torch.allclose(found[0].double(), read.T @ read, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(4, 6, 3, padding=1, groups=2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_the_root_of_the_gram_matrix_diagonal(layer, dtype, monkeypatch):
    monkeypatch.setattr(curvature, "CACHED", 50)  # a few positions at a time
    g = torch.Generator().manual_seed(0)
    shape = (5, 7, 6) if isinstance(layer, nn.Linear) else (3, 4, 5, 5)
    data = [torch.randn(shape, generator=g).to(dtype) for _ in range(3)]
    model = nn.Sequential(layer.to(dtype))
    probe = Probe(model, Masks.dense(model), data, lambda m, x: m(x).float().mean(), training=False)
    read = torch.cat([columns(layer, x) for x in data], 1).double()
    found = norms(probe, ["0.weight"])["0.weight"]
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), read.square().mean(1).sqrt(), rtol=1e-5)
    whole = grams(probe, ["0.weight"])["0.weight"].double()
    assert torch.allclose(whole, read.mT @ read, rtol=1e-4, atol=1e-4)


def test_inputs_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(3, 3))
    for odd in (torch.nan, torch.inf):
        data = [torch.tensor([[1.0, odd, 0.0]])]
        probe = Probe(model, Masks.dense(model), data, lambda m, x: (m(x), torch.zeros(()))[1], training=False)
        for of in (norms, grams):
            with pytest.raises(ResproutError, match=r"0\.weight.*NaN or infinity"):
                of(probe, ["0.weight"])
