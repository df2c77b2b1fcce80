"""The file and its size: exact, small, and never silently wrong."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

import resprout as rs
from resprout.core.masks import Masks
from resprout.deploy.encoding import archive, encode, read, size
from resprout.deploy.folding import stored
from resprout.deploy.interpret import run
from resprout.deploy.sparse import Sparse, fold, pack, unfold, unpack
from resprout.deploy.trace import lower

VALUES = ["fp32", "fp16", "int8", "int4"]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 50), nn.Linear(50, 4))
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        model[1].weight.uniform_(0.5, 2)
    return model.eval()


X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def masked(model: nn.Module, density: float, seed: int) -> Masks:
    g = torch.Generator().manual_seed(seed)
    masks = Masks({n: torch.rand(m.shape, generator=g) < density for n, m in Masks.dense(model).items()})
    with torch.no_grad():
        for name, mask in masks.items():
            dict(model.named_parameters())[name].mul_(mask)
    return masks


# -- what is written comes back ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    density=st.sampled_from([0.0, 0.002, 0.1, 0.7, 1.0]),
    seed=st.integers(0, 2**30),
    values=st.sampled_from(VALUES),
)
def test_a_network_comes_back(tmp_path_factory, density, seed, values):
    model, other = net(seed), net(seed + 1)
    masks = masked(model, density, seed)
    path = tmp_path_factory.mktemp("file") / "net.safetensors"
    saved = rs.save(path, model, masks, values=values)
    assert saved == path.stat().st_size == size(model, masks, values) == len(encode(archive(model, masks, values)))
    assert rs.load(path, into=other) is other
    whole = read(path)
    step = {n: s.scales.view(-1, *[1] * (len(s.shape) - 1)) for n, s in whole.weights.items() if s.scales is not None}
    for name, want in model.state_dict().items():
        got = other.state_dict()[name]
        if name in step:
            room = 0.5001 if values == "int8" else 4  # int4 may clip a channel's largest weights
            assert ((got - want).abs() <= room * step[name] + 1e-9).all(), name
            assert torch.equal(got == 0, (want == 0) | (got == 0)), "dead weights stay exactly zero"
        elif want.is_floating_point():
            want = want if values == "fp32" else want.half().float()
            assert torch.equal(got, want), name
    assert encode(whole) == path.read_bytes(), "what was read is written as it was"


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**30), density=st.sampled_from([0.0, 0.05, 0.4, 1.0]), values=st.sampled_from(VALUES))
def test_the_size_with_a_program_is_that_of_the_present_weights(seed, density, values):
    model = net(seed)
    traced = lower(net(seed + 1), X)  # of other weights
    masks, notes = masked(model, density, seed), {"budget": "1KiB", "provenance": '{"a":1}'}
    assert size(model, masks, values, traced, notes) == len(
        encode(archive(model, masks, values, lower(model, X), notes))
    )


@pytest.mark.parametrize("values", VALUES)
def test_a_folded_network_computes_the_same(tmp_path, values):
    model = net()
    rs.save(tmp_path / "net", model, masked(model, 0.5, 1), values=values, example=X, budget="1KiB")
    whole, loaded = read(tmp_path / "net"), rs.load(tmp_path / "net", net(5))
    assert (whole.folds, whole.metadata["budget"]) == ({"0.weight": "1"}, "1KiB")
    assert whole.program is not None
    whole.program.check(whole.tensors())
    assert torch.allclose(run(whole.program, whole.tensors(), X), loaded(X), atol=1e-5)
    near = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1, "int4": 2}[values]
    assert (loaded(X) - model(X)).abs().max() < near


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_norms_of_all_kinds_are_folded_and_unfolded(tmp_path, affine, bias):
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.BatchNorm2d(2, affine=affine), nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine, eps=0.1)
        )
        for norm in (model[0], model[2]):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
            if affine:
                nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        return model.eval()

    model, traced = build(0), lower(build(0), X)
    what = stored(model, traced)
    for name, want in traced.tensors.items():
        got = what.tensors[name].double()
        if name in what.factors:
            got = got * what.factors[name].view(-1, 1, 1, 1)
        assert torch.allclose(got.float(), want, rtol=1e-6), name
    rs.save(tmp_path / "net", model, values="fp32", example=X)
    assert torch.allclose(rs.load(tmp_path / "net", build(1))(X), model(X), atol=1e-5)


def test_tied_weights_are_stored_once(tmp_path):
    def build(tie: bool = True) -> nn.Module:
        model = nn.Sequential(nn.Linear(30, 30, bias=False), nn.ReLU(), nn.Linear(30, 30, bias=False))
        if tie:
            model[2].weight = model[0].weight
        return model

    model, x = build(), torch.randn(2, 30)
    for example in (None, x):
        n = rs.save(tmp_path / "tied", model, values="fp32", example=example)
        assert n < rs.save(tmp_path / "two", build(tie=False), values="fp32", example=example) - 3000
        assert list(read(tmp_path / "tied").weights) == ["0.weight"]
        for other in (build(), build(tie=False)):
            assert torch.equal(rs.load(tmp_path / "tied", other)(x), model(x))


def test_a_mask_may_name_a_tied_weight_by_either_name(tmp_path):
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].weight = model[0].weight
    mask = torch.rand(9, 9) < 0.5
    for name in ("0.weight", "1.weight"):
        rs.save(tmp_path / name, model, Masks({name: mask}))
        assert read(tmp_path / name).weights["0.weight"].alive == int(mask.sum())


def test_what_the_program_does_not_use_is_left_out(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.auxiliary = nn.Linear(5, 6), nn.Linear(5, 70)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x)

    model, other, x = Net(), Net(), torch.randn(2, 5)
    rs.save(tmp_path / "net", model, values="fp32", example=x)
    assert read(tmp_path / "net").unused == ("auxiliary.weight", "auxiliary.bias")
    kept = other.auxiliary.weight.clone()
    assert torch.equal(rs.load(tmp_path / "net", other)(x), model(x))
    assert torch.equal(other.auxiliary.weight, kept)


def test_values_that_are_zero_but_alive_are_written_and_come_back(tmp_path):
    model = net()
    with torch.no_grad():
        model[4].weight.zero_()
    dense = Masks.dense(model)
    for values in VALUES:
        whole = rs.save(tmp_path / "a", model, dense, values=values)
        assert whole > rs.save(tmp_path / "b", model, values=values)  # default: those that are not zero
        assert read(tmp_path / "a").weights["4.weight"].alive == 200
        assert not rs.load(tmp_path / "a", into=net(1))[4].weight.any()


def test_targets_that_are_not_the_default(tmp_path):
    model = net()
    masks = rs.prune(model, 0.5, ignore=["0"])
    rs.save(tmp_path / "net", model, Masks(dict(reversed(list(masks.items())))), values="fp32")
    loaded = rs.load(tmp_path / "net", into=net(1))
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())
    assert pack(read(tmp_path / "net").weights["0.weight"]).places.size == 0, "places of all weights take no bytes"


def test_a_network_without_conv_or_linear_weights(tmp_path):
    model = nn.Embedding(20, 8)
    masks = Masks({"weight": torch.rand(20, 8) < 0.3})
    rs.save(tmp_path / "net", model, masks, values="fp32")
    assert torch.equal(rs.load(tmp_path / "net", nn.Embedding(20, 8)).weight, model.weight * masks["weight"])
    alone = nn.Linear(4, 4)
    rs.save(tmp_path / "net", alone, values="fp32")
    assert torch.equal(rs.load(tmp_path / "net", nn.Linear(4, 4)).weight, alone.weight)


def test_any_safetensors_reader_opens_it(tmp_path):
    model = net()
    masks = masked(model, 0.3, 2)
    rs.save(tmp_path / "net", model, masks, values="fp32", budget="64KiB", provenance={"seed": 1})
    with safe_open(str(tmp_path / "net"), "np") as f:
        assert sorted(f.keys()) == ["index", "rest", "weights"]
        meta = f.metadata()
    assert (meta["format"], meta["values"], meta["budget"]) == ("resprout-2", "fp32", "64KiB")
    assert meta["model"] == "torch.nn.modules.container.Sequential"
    assert json.loads(meta["provenance"]) == {"seed": 1}


# -- how small -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.05, 0.03, 0.0115, 0.005])
def test_random_places_are_near_their_entropy(density):
    torch.manual_seed(0)
    places = torch.nonzero(torch.rand(1_000_000) < density).flatten()
    sparse = Sparse((1000, 1000), places, torch.randn(len(places)))
    p = len(places) / 1e6
    bound = -1e6 * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    assert sparse.entropy == pytest.approx(bound)
    assert bound * 0.99 < pack(sparse).places.size < bound * 1.03


def test_the_size_of_float_files_is_a_matter_of_masks():
    model, other = net(0), net(1)
    masks = masked(model, 0.3, 1)
    for values in ("fp32", "fp16"):
        assert size(model, masks, values) == size(other, masks, values)


# -- integers ------------------------------------------------------------------------------------------------------


@given(codes=st.lists(st.integers(-127, 127), max_size=60), centre=st.integers(0, 127))
def test_folded_integers_come_back(codes, centre):
    numbers = fold(np.array(codes, np.int8), centre)
    assert numbers.min(initial=0) >= 0
    assert unfold(numbers, centre).tolist() == codes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**30), values=st.sampled_from(["int8", "int4"]), n=st.integers(0, 400))
def test_one_tensor_comes_back_from_its_streams(seed, values, n):
    draw = np.random.default_rng(seed)
    shape, top = (20, 5, 4), {"int8": 127, "int4": 7}[values]
    places = np.sort(draw.permutation(400)[:n])
    scales = np.where(np.isin(np.arange(20), places // 20), np.float32(2.0) ** draw.integers(-12, 3, 20), 0)
    codes = draw.integers(-top, top + 1, n).astype(np.int8)
    one = Sparse(shape, *(torch.from_numpy(a) for a in (places, codes, scales.astype(np.float32))))
    packed = pack(one)
    assert len(packed.streams()) == packed.size
    two, taken = unpack(shape, n, packed.row(), np.append(packed.streams(), np.uint8(0)), values)
    assert taken == packed.size
    assert torch.equal(one.dense(), two.dense())
    assert torch.equal(one.codes, two.codes)


# -- what cannot be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["int9", "FP16", ""])
def test_unknown_values_are_refused(values):
    with pytest.raises(rs.ResproutError, match="unknown values"):
        archive(net(), Masks.dense(net()), values)
    with pytest.raises(rs.ResproutError, match="unknown values"):
        size(net(), Masks.dense(net()), values)


@pytest.mark.parametrize(
    ("place", "value", "values", "match"),
    [
        ("3.weight", torch.nan, "fp32", "'3.weight' holds NaN"),
        ("3.weight", torch.inf, "fp32", "'3.weight' holds NaN or infinity"),
        ("3.weight", -torch.inf, "int8", "'3.weight' holds NaN or infinity"),
        ("3.weight", torch.nan, "int4", "'3.weight' holds NaN"),
        ("3.weight", 3e38, "int4", "'3.weight' holds .* beyond int4: save with values='fp32'"),
        ("3.weight", 1e6, "fp16", "'3.weight' holds .* beyond fp16: save with values='fp32'"),
        ("1.bias", torch.nan, "fp16", "'1.bias' holds NaN"),
        ("1.running_var", torch.inf, "int8", "'1.running_var' holds NaN or infinity"),
    ],
)
def test_weights_that_cannot_be_written_leave_the_old_file(tmp_path, place, value, values, match):
    model = net()
    rs.save(tmp_path / "net", model)
    old = (tmp_path / "net").read_bytes()
    with torch.no_grad():
        model.state_dict()[place].view(-1)[0] = value
    with pytest.raises(rs.ResproutError, match=match):
        rs.save(tmp_path / "net", model, values=values)
    assert (tmp_path / "net").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("values", ["int8", "int4"])
@pytest.mark.parametrize("weight", [1e36, 1e-38, 1e-45])
def test_extreme_weights_survive(tmp_path, values, weight):
    model = net()
    with torch.no_grad():
        model[3].weight[0, 0] = weight
    rs.save(tmp_path / "net", model, values=values)
    loaded = rs.load(tmp_path / "net", net(1))[3].weight.detach()
    assert loaded[0, 0] == pytest.approx(weight, rel=0.2, abs=0.2)


def test_rest_beyond_float16_is_kept_in_float32(tmp_path):
    model = net()
    with torch.no_grad():
        model[1].running_var[0] = 1e6
    for values in VALUES:
        rs.save(tmp_path / "net", model, values=values)
        assert torch.equal(rs.load(tmp_path / "net", net(1))[1].running_var, model[1].running_var)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"data": [X]}, "data= fits the rounding to integers"),
        ({"values": "int8", "data": []}, "pass a list of batches"),
        ({"values": "int8", "data": iter([X])}, "pass a list of batches"),
        ({"values": "int8", "data": [X * torch.nan]}, "NaN"),
        ({"provenance": {"a": object()}}, "JSON"),
        ({"provenance": {"a": math.nan}}, "JSON"),
        ({"masks": Masks({})}, "no weight at all"),
        ({"masks": Masks({"9": torch.ones(3, dtype=torch.bool)})}, "'9'"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, match):
    with pytest.raises(rs.ResproutError, match=match):
        rs.save(tmp_path / "net", net(), **arguments)
    assert not list(tmp_path.iterdir())
