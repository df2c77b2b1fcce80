"""Activations that count as the usual one: identities, closed forms, and honest counts."""

import copy
import math

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.activations.scap import Scap
from resprout.activations.sparsify import SparseLinear, centers_of, peak, threshold_of
from resprout.core.errors import ResproutError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 12, bias=False), nn.Tanh(), nn.Linear(12, 3))


def data(n: int = 5) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(8, 6, generator=g) + 1 for _ in range(n)]


@pytest.mark.parametrize("mode", ["zero", "median", "kde"])
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_the_calibration_data_are_as_sparse_as_asked(mode, sparsity):
    model = net()
    sparse = rs.sparsify_activations(model, sparsity, data=data(), mode=mode)
    assert list(sparse.layers) == ["0", "2", "4"]
    x = torch.cat(data())
    for name, width in (("0", 6), ("2", 20), ("4", 12)):
        assert abs(sparse.calibrated[name] - sparsity) <= 1 / (40 * width) + 1e-9
    with torch.no_grad(), sparse.count():
        model(x)
    for layer, found in zip(sparse.layers.values(), sparse.calibrated.values(), strict=True):
        assert layer.zeros / layer.seen == pytest.approx(found), "upstream was sparse already when a layer learned"


@pytest.mark.parametrize("mode", ["zero", "median", "kde"])
def test_without_sparsity_it_is_the_dense_network_whatever_the_center(mode):
    model = net()
    dense = copy.deepcopy(model)
    sparse = rs.sparsify_activations(model, 0.0, data=data(), mode=mode)
    assert {layer.threshold for layer in sparse.layers.values()} == {0.0}
    x = torch.randn(9, 6)
    torch.testing.assert_close(model(x), dense(x), rtol=0, atol=1e-5)
    for center in (-3.0, 0.5):
        layer = SparseLinear(dense[0], center)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(layer(x), dense[0](x), rtol=0, atol=1e-5)


def by_hand(mu: float, center: float, sparsity: float) -> float:
    """E[(x - m)^2; |x - m| <= t] of x ~ N(mu, 1), with t so that the event has probability `sparsity`."""
    d = mu - center

    def below(z: float) -> float:
        return (1 + math.erf(z / math.sqrt(2))) / 2

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    low, high, t = 0.0, 20.0, 10.0
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if below(t - d) - below(-t - d) < sparsity else (low, t)
    a, b = -t - d, t - d  # z = x - mu is in [a, b], and x - m = z + d
    mass, first = below(b) - below(a), density(a) - density(b)
    second = mass + a * density(a) - b * density(b)
    return second + 2 * d * first + d * d * mass


def test_the_mode_costs_less_than_zero_by_the_closed_form():
    """The catalogue's check: x ~ N(mu, 1), |mu| = 1, 60 % sparsity."""
    g = torch.Generator().manual_seed(0)
    for mu in (1.0, -1.0):
        x = mu + torch.randn(200_000, generator=g)
        found = {}
        for center in (0.0, mu):
            t = threshold_of(x, center, 0.6)
            layer = SparseLinear(nn.Linear(1, 1), center, t)
            found[center] = float((layer.sparse(x) + center - x).square().mean())
            assert found[center] == pytest.approx(by_hand(mu, center, 0.6), rel=0.02)
        assert found[mu] < 0.5 * found[0.0]


def test_the_peak_of_a_lopsided_density_is_not_its_median():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([0.2 + 0.1 * torch.randn(60_000, generator=g), 3 + 2 * torch.rand(50_000, generator=g)])
    assert peak(x) == pytest.approx(0.2, abs=0.05)
    assert len(centers_of(x, "kde")) in (1, 2)
    assert centers_of(x, "median")[0] == pytest.approx(float(x.median()))
    assert centers_of(x, "zero") == [0.0]
    assert peak(torch.full((10,), 2.5)) == 2.5


def test_of_several_peaks_the_one_that_moves_the_output_least_is_taken(monkeypatch):
    from resprout.activations import sparsify

    monkeypatch.setattr(sparsify, "centers_of", lambda x, mode: [5.0, 1.0, -7.0])
    sparse = rs.sparsify_activations(net(), 0.5, data=data(), mode="kde", ignore=["2", "4"])
    assert sparse.layers["0"].center == 1.0


def test_patterns_say_what_each_layer_gets():
    model = net()
    sparse = rs.sparsify_activations(
        model, {"4": 0.75, "[02]": 0.25}, data=data(), mode={"4": "median", "0": "zero"}, ignore=["2"]
    )
    assert list(sparse.layers) == ["0", "4"]
    assert sparse.calibrated["0"] == pytest.approx(0.25, abs=0.01)
    assert sparse.calibrated["4"] == pytest.approx(0.75, abs=0.01)
    assert sparse.layers["0"].center == 0
    assert type(model[2]) is nn.Linear


def test_multiply_adds_are_counted_by_hand():
    model = net()
    sparse = rs.sparsify_activations(model, 0.5, data=data(), targets=["2"])
    with torch.no_grad(), sparse.count() as count:
        model(torch.cat(data()))
    assert count.total == 40 * (6 * 20 + 20 * 12 + 12 * 3)
    assert count.layers == 40 * 20 * 12
    assert count.skipped == round(sparse.calibrated["2"] * 40 * 20) * 12
    assert count.fraction == count.skipped / count.total
    before = sparse.layers["2"].seen
    model(torch.cat(data()))
    assert sparse.layers["2"].seen == before, "nothing is counted outside"


def test_attention_is_part_of_the_whole():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    sparse = rs.sparsify_activations(layer, 0.5, data=[torch.randn(2, 10, 16)], targets=["linear*"])
    with torch.no_grad(), sparse.count() as count:
        layer.eval()(torch.randn(2, 10, 16))  # where PyTorch would take a fused kernel, which sees no layers
    assert count.total == 2 * 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 10 * 10 * 16
    assert count.layers == 2 * 10 * 2 * 16 * 32


def test_parameters_stay_the_same_objects_and_all_can_be_undone():
    model = net()
    dense, x = copy.deepcopy(model), torch.randn(4, 6)
    params, names = [id(p) for p in model.parameters()], list(model.state_dict())
    sparse = rs.sparsify_activations(model, 0.5, data=data())
    assert [id(p) for p in model.parameters()] == params
    assert list(model.state_dict()) == names
    assert not torch.allclose(model(x), dense(x), atol=1e-3)
    again = copy.deepcopy(model)
    assert torch.equal(again(x), model(x))
    with torch.no_grad():
        for net_ in (model, dense):  # the constant follows the weight
            dict(net_.named_parameters())["0.weight"].mul_(2)
    sparse.layers["0"].threshold = 0.0
    torch.testing.assert_close(sparse.layers["0"](x), dense[0](x), rtol=0, atol=1e-5)
    sparse.restore()
    assert torch.equal(model(x), dense(x))
    assert [type(m) for m in model] == [type(m) for m in dense]


def test_the_method_is_the_function():
    model, twin = net(), net()
    Scap(0.6, "zero")(model, data())
    rs.sparsify_activations(twin, 0.6, data=data(), mode="zero")
    assert torch.equal(model(data()[0]), twin(data()[0]))


def test_gradients_pass_where_inputs_do():
    sparse = rs.sparsify_activations(net(), 0.5, data=data())
    x = torch.randn(5, 6, requires_grad=True)
    sparse.model(x).sum().backward()
    assert x.grad is not None
    kept = sparse.layers["0"].sparse(x.detach()) != 0
    assert torch.equal(x.grad != 0, kept)


def test_modes_of_training_and_mappings():
    model = net().train()
    model[1].eval()
    rs.sparsify_activations(model, 0.5, data=[{"input": x} for x in data()])
    assert [m.training for m in model] == [True, False, True, True, True]


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x)


def test_what_is_wrong_is_said_and_nothing_is_changed():
    model = net()
    for given, says in (
        ({"sparsity": 1.5}, "sparsity"),
        ({"mode": "mean"}, "mode"),
        ({"data": []}, "empty"),
        ({"data": [torch.randn(2, 7)]}, "cannot take the calibration data"),
        ({"data": [torch.full((2, 6), math.nan)]}, "NaN"),
        ({"data": [torch.randn(2, 6), torch.randn(2, 7)]}, "do not go together"),
        ({"sparsity": {"nine": 0.5}}, "nine"),
    ):
        with pytest.raises(ResproutError, match=says):
            rs.sparsify_activations(model, **({"sparsity": 0.5, "data": data()} | given))  # pyright: ignore
        assert all(type(m) in (nn.Linear, nn.GELU, nn.Tanh) for m in model)
    with pytest.raises(ResproutError, match="nothing is seen of 'b'"):
        rs.sparsify_activations(Unused(), 0.5, data=data())
    with pytest.raises(ResproutError, match="no linear layer"):
        rs.sparsify_activations(nn.Sequential(nn.Conv2d(1, 1, 1)), 0.5, data=data())
