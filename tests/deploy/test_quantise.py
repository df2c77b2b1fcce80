"""Rounding to integers: never worse with data than without, on the grid, and much better where it matters."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import resprout as rs
from resprout import find
from resprout.deploy.encoding import archive
from resprout.deploy.quantise import grams, quantise, refit, relative_error
from resprout.deploy.sparse import LARGEST, Sparse
from resprout.tasks.cifar10 import cifar10


def sparse(draw: np.random.Generator, shape: tuple[int, int], density: float, values: str):
    places = np.flatnonzero(draw.random(shape) < density)
    weights = (draw.standard_normal(len(places)) * 10.0 ** draw.integers(-4, 3)).astype(np.float32)
    return quantise(shape, places, weights, values), weights


def test_integers_by_hand():
    weights = np.array([127, -63.4, 2, 0.25, -0.5, 0.75], np.float32)
    one = quantise((3, 4), np.array([0, 1, 3, 8, 10, 11]), weights, "int8")
    assert one.scales is not None
    assert one.scales.tolist() == [1.0, 0.0, np.float32(2.0**-7.25)]  # 0.75 / 127 is between 2^-7.5 and this
    assert one.codes.tolist() == [127, -63, 2, 38, -76, 114]
    four = quantise((1, 3), np.array([0, 1, 2]), np.array([7, -3.2, 0.4], np.float32), "int4")
    assert four.codes.tolist() == [7, -3, 0]
    assert four.dense().tolist() == [[7.0, -3.0, 0.0]]


@given(st.integers(0, 2**30), st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_plain_rounding_is_off_by_half_a_step_at_most(seed, density):
    found, weights = sparse(np.random.default_rng(seed), (7, 30), density, "int8")
    assert found.scales is not None
    step = found.scales.numpy()[found.places.numpy() // 30]
    assert (np.abs(found.values().numpy() - weights) <= 0.5001 * step).all()
    largest = np.zeros(7, np.float32)
    np.maximum.at(largest, found.places.numpy() // 30, np.abs(weights))
    assert (found.scales.numpy() <= largest / 127 * 2**0.25 * 1.0001).all(), "no coarser than needed"
    assert relative_error(found, weights) < 0.02


def test_int4_scales_have_the_least_error():
    draw = np.random.default_rng(0)
    found, weights = sparse(draw, (1, 3000), 1.0, "int4")
    assert found.scales is not None
    ours = np.square(found.values().numpy() - weights).sum()
    for shift in range(-6, 7):
        step = float(found.scales[0]) * 2 ** (shift / 4)
        assert ours <= np.square(np.clip(np.rint(weights / step), -7, 7) * step - weights).sum() * 1.0001


@given(st.integers(0, 2**30), st.sampled_from(["int8", "int4"]), st.floats(0.02, 1), st.integers(2, 60))
@settings(max_examples=60, deadline=None)
def test_a_refit_is_never_worse_in_any_channel(seed, values, density, samples):
    draw = np.random.default_rng(seed)
    plain, weights = sparse(draw, (6, 24), density, values)
    x = torch.from_numpy(draw.standard_normal((samples, 24)) @ draw.standard_normal((24, 24))).float()
    fitted = refit(plain, weights, (x.t() @ x)[None], values)
    dense = Sparse(plain.shape, plain.places, torch.from_numpy(weights)).dense().double()
    before, after = (((s.dense().double() - dense) @ x.t().double()).square().sum(1) for s in (plain, fitted))
    assert (after <= before * (1 + 1e-4) + 1e-9 * before.max()).all()
    assert torch.equal(fitted.places, plain.places)
    assert torch.equal(fitted.scales, plain.scales)
    assert int(fitted.codes.abs().max() if len(weights) else 0) <= LARGEST[values]


def test_a_refit_finds_what_rounding_cannot():
    """Two inputs that are always equal: only the sum of their weights matters."""
    weights = np.array([7.0, 1.4, 1.4, 1.4, 1.4], np.float32)
    plain = quantise((1, 5), np.arange(5), weights, "int4")
    assert plain.codes.tolist() == [7, 1, 1, 1, 1]
    x = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
    fitted = refit(plain, weights, (x.t() @ x)[None], "int4")
    assert fitted.codes[0] == 7
    assert int(fitted.codes[1:].sum()) in (5, 6)  # of 5.6


def test_an_input_that_is_always_zero_does_no_harm():
    plain, weights = sparse(np.random.default_rng(0), (4, 10), 0.8, "int4")
    fitted = refit(plain, weights, torch.zeros(1, 10, 10), "int4")
    assert fitted.dense().isfinite().all()
    assert relative_error(fitted, weights) <= relative_error(plain, weights) * 1.0001


class Net(nn.Module):
    """One layer of each kind."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding="same")
        self.depthwise = nn.Conv2d(12, 12, (1, 3), groups=12, padding=(0, 1), padding_mode="circular")
        self.norm, self.linear = nn.BatchNorm2d(12), nn.Linear(12 * 25, 10)
        self.unknown = nn.Conv1d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.depthwise(F.relu(self.grouped(F.relu(self.plain(x)))))))
        return self.unknown(self.linear(x.flatten(1))[:, None])[:, 0]


def test_gram_matrices_predict_the_change_of_each_layers_output():
    torch.manual_seed(0)
    model, data = Net().train(), [torch.randn(5, 3, 10, 10), (torch.randn(12, 3, 10, 10), torch.zeros(12))]
    before = copy.deepcopy(model.state_dict())
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    found = dict(grams(model, names, data))
    assert model.training
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert set(found) == {"plain.weight", "grouped.weight", "depthwise.weight", "linear.weight"}
    model.eval()
    for name, gram in found.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        inputs: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda m, args, inputs=inputs: inputs.append(args[0]))
        model(data[0]), model(data[1][0])
        handle.remove()
        change = torch.randn_like(module.weight)
        twin = copy.deepcopy(module)
        with torch.no_grad():
            twin.weight.copy_(change)
            twin.bias.zero_()
            outputs = [twin(x) for x in inputs]
        axes = [d for d in range(outputs[0].dim()) if d != 1]
        want = sum(o.square().sum(axes) for o in outputs)
        flat = change.view(len(gram), -1, gram.shape[-1])
        got = torch.einsum("goi,gij,goj->go", flat, gram, flat).reshape(-1)
        assert torch.allclose(got, want, rtol=1e-3), name


@pytest.mark.parametrize("values", ["int8", "int4"])
def test_with_data_a_network_changes_less(values):
    torch.manual_seed(0)
    model = Net()
    data = [F.interpolate(torch.randn(64, 3, 4, 4), 10, mode="bilinear") for _ in range(3)]  # smooth, as images
    model(data[0])  # gives the norm its statistics
    model.eval()
    masks = rs.prune(model, 0.4)
    changed = {}
    for how in (None, data[:2]):
        whole, twin = archive(model, masks, values, data=how), copy.deepcopy(model)
        twin.load_state_dict(whole.tensors(), strict=False)
        with torch.no_grad():
            changed[how is None] = float((twin(data[2]) - model(data[2])).norm() / model(data[2]).norm())
    assert changed[False] < 0.8 * changed[True]


@pytest.mark.data
def test_with_data_int4_harms_a_trained_network_much_less(data_dir):
    model = find.network("resnet20", data_dir / "cifar10-resnet" / "resnet20.safetensors").eval()
    task = cifar10(str(data_dir / "cifar10"))
    batches = [next(iter(task.batches("train", seed=1)))[0], next(iter(task.batches("test")))[0]]
    masks = rs.prune(model, 0.5)
    changed = {}
    for how in (None, batches[:1]):
        whole, twin = archive(model, masks, "int4", data=how), copy.deepcopy(model)
        twin.load_state_dict(whole.tensors(), strict=False)
        with torch.no_grad():
            want = model(batches[1])
            changed[how is None] = float((twin(batches[1]) - want).norm() / want.norm())
    assert changed[False] < 0.5 * changed[True]


def test_save_reports_the_error_of_each_weight(tmp_path):
    model, told = Net(), {}
    rs.save(tmp_path / "net", model, values="int8", report=told.__setitem__)
    whole = rs.load(tmp_path / "net", Net()).state_dict()
    assert set(told) == {n for n, p in model.named_parameters() if p.dim() > 1}
    for name, error in told.items():
        want = (whole[name] - model.state_dict()[name]).norm() / model.state_dict()[name].norm()
        assert error == pytest.approx(float(want), rel=1e-3)
