"""The file and its size: exact, small, and never silently wrong."""

import copy
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

import resprout as rs
from resprout.core.masks import Masks
from resprout.deploy import encoding


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(0, 3000),
    density=st.sampled_from([0.0, 0.001, 0.003, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 2**30),
    ends=st.booleans(),
)
def test_places_come_back(size, density, seed, ends):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density
    if ends and size:
        mask[0] = mask[-1] = True
    codes = encoding.gaps(mask)
    assert codes.dtype == torch.uint8
    assert torch.equal(encoding.places(codes, size), torch.nonzero(mask).flatten())


@pytest.mark.parametrize(
    ("alive", "codes"),
    [
        ([], []),
        ([0], [0]),
        ([0, 1, 2], [0, 0, 0]),
        ([254], [254]),
        ([255], [255, 0]),
        ([256], [255, 1]),
        ([509], [255, 254]),
        ([510], [255, 255, 0]),
        ([3, 3 + 256, 3 + 256 + 600], [3, 255, 0, 255, 255, 89]),
    ],
)
def test_gaps_by_hand(alive, codes):
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[alive] = True
    assert encoding.gaps(mask).tolist() == codes
    assert encoding.places(torch.tensor(codes, dtype=torch.uint8), 1000).tolist() == alive


@pytest.mark.parametrize(
    ("codes", "match"), [([255], "end in the middle"), ([0, 99], "outside"), ([255, 0], "outside")]
)
def test_impossible_places_are_refused(codes, match):
    with pytest.raises(rs.CheckpointError, match=match):
        encoding.places(torch.tensor(codes, dtype=torch.uint8), 100)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 50), nn.Linear(50, 4))
    model[1].running_mean.normal_()
    return model


def masked(model: nn.Module, density: float, seed: int) -> Masks:
    g = torch.Generator().manual_seed(seed)
    masks = Masks({n: torch.rand(m.shape, generator=g) < density for n, m in Masks.dense(model).items()})
    with torch.no_grad():
        for name, mask in masks.items():
            dict(model.named_parameters())[name].mul_(mask)
    return masks


@settings(max_examples=25, deadline=None)
@given(
    density=st.sampled_from([0.0, 0.002, 0.1, 0.7, 1.0]),
    seed=st.integers(0, 2**30),
    values=st.sampled_from(["fp32", "fp16"]),
)
def test_a_network_comes_back(tmp_path_factory, density, seed, values):
    model, other = net(seed), net(seed + 1)
    masks = masked(model, density, seed)
    path = tmp_path_factory.mktemp("file") / "net.safetensors"
    size = rs.save(path, model, masks, values=values)
    assert (
        size == path.stat().st_size == encoding.size(model, masks, values) == len(encoding.encode(model, masks, values))
    )
    assert rs.load(path, into=other) is other
    for name, want in model.state_dict().items():
        got = other.state_dict()[name]
        if name in masks and values == "fp16":
            want = want.half().float()
        if want.is_floating_point():
            assert torch.equal(got, want), name


def test_values_that_are_zero_but_alive_are_written_and_come_back(tmp_path):
    model = net()
    with torch.no_grad():
        model[4].weight.zero_()
    dense = Masks.dense(model)
    assert rs.save(tmp_path / "a", model, dense) > rs.save(tmp_path / "b", model)  # default: those that are not zero
    assert not rs.load(tmp_path / "a", into=net(1))[4].weight.any()


def test_targets_that_are_not_the_default(tmp_path):
    model = net()
    masks = rs.prune(model, 0.5, ignore=["0"])
    rs.save(tmp_path / "net", model, Masks(dict(reversed(list(masks.items())))), values="fp32")
    loaded = rs.load(tmp_path / "net", into=net(1))
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())


@pytest.mark.parametrize("values", ["int9", "FP16", ""])
def test_unknown_values_are_refused(values):
    with pytest.raises(rs.ResproutError, match="unknown values"):
        encoding.encode(net(), Masks.dense(net()), values)
    with pytest.raises(rs.ResproutError, match="unknown values"):
        encoding.size(net(), Masks.dense(net()), values)


@pytest.mark.parametrize(
    ("place", "value", "values", "match"),
    [
        ("3.weight", torch.nan, "fp32", "'3.weight' holds NaN"),
        ("3.weight", torch.inf, "fp32", "'3.weight' holds NaN, infinity"),
        ("3.weight", 1e6, "fp16", "'3.weight' holds .* beyond fp16"),
        ("1.bias", torch.nan, "fp16", "'1.bias' holds NaN"),
        ("1.running_var", torch.inf, "fp16", "'1.running_var' holds NaN or infinity"),
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


# -- files that are not what they should be ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[bytes, dict[str, Tensor]]:
    model = net()
    masks = masked(model, 0.2, 9)
    path = tmp_path_factory.mktemp("good") / "net"
    rs.save(path, model, masks)
    return path.read_bytes(), rs.load(path, into=net(1)).state_dict()


def outcome(path, data: bytes, right: dict[str, Tensor]) -> str:
    """Load `data`; "refused" or "right" are fine, all else fails the test."""
    path.write_bytes(data)
    model = net(7)
    before = copy.deepcopy(model.state_dict())
    try:
        rs.load(path, into=model)
    except rs.CheckpointError:
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        return "refused"
    assert all(torch.equal(t, right[n]) for n, t in model.state_dict().items() if t.is_floating_point())
    return "right"


def test_a_file_cut_short_is_refused(tmp_path, good):
    data, right = good
    cuts = sorted({0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1, *random.Random(0).sample(range(len(data)), 40)})
    assert {outcome(tmp_path / "net", data[:cut], right) for cut in cuts} == {"refused"}
    assert outcome(tmp_path / "net", data + b"\0", right) == "refused"
    assert outcome(tmp_path / "net", data, right) == "right"


def test_damaged_files_are_refused_and_never_silently_wrong(tmp_path, good):
    data, right = good
    draw, counts = random.Random(1), {"refused": 0, "right": 0}
    header = 8 + int.from_bytes(data[:8], "little")
    for i in range(400):
        broken = bytearray(data)
        region = (0, 8) if i % 10 == 0 else (8, header) if i % 2 else (header, len(data))
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            at = draw.randrange(*region)
            kind = draw.randrange(3)
            broken[at] = broken[at] ^ (1 << draw.randrange(8)) if kind else draw.choice(b'0123456789,[]{}":aZ ')
        if i % 25 == 0:
            at = draw.randrange(len(data))
            del broken[at : at + draw.randrange(1, 9)]
        counts[outcome(tmp_path / "net", bytes(broken), right)] += 1
    assert counts["refused"] > 350  # what is left are changes without meaning


def test_every_byte_of_tensors_and_metadata_counts(tmp_path, good):
    data, right = good
    header = 8 + int.from_bytes(data[:8], "little")
    for at in range(header, len(data), 29):
        assert outcome(tmp_path / "net", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], right) == "refused"
    text = data[8:header].decode()
    meta = json.loads(text)["__metadata__"]
    for key, old in meta.items():
        for change in (old[:-1], old + "0", old.replace("1", "2"), ""):
            if change != old:
                head = json.loads(text)
                head["__metadata__"][key] = change
                raw = json.dumps(head).encode()
                raw += b" " * (-len(raw) % 8)
                broken = len(raw).to_bytes(8, "little") + raw + data[header:]
                assert outcome(tmp_path / "net", broken, right) == "refused", (key, change)


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    model = net()
    before = copy.deepcopy(model.state_dict())
    save_file(model.state_dict(), tmp_path / "plain")
    torch.save(model.state_dict(), tmp_path / "pickle")
    (tmp_path / "text").write_text("hello" * 100)
    rs.save(tmp_path / "other", nn.Sequential(nn.Linear(3, 4)))
    (tmp_path / "folder").mkdir()
    for name, match in [
        ("plain", "is no file of format"),
        ("pickle", "cannot be read"),
        ("text", "cannot be read"),
        ("other", "belongs to another model"),
        ("absent", "cannot be read"),
        ("folder", "cannot be read"),
    ]:
        with pytest.raises(rs.CheckpointError, match=match):
            rs.load(tmp_path / name, into=model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_any_safetensors_reader_opens_it(tmp_path):
    model = net()
    masks = masked(model, 0.3, 2)
    rs.save(tmp_path / "net", model, masks, values="fp32")
    with safe_open(str(tmp_path / "net"), "np") as f:
        assert sorted(f.keys()) == ["places", "rest", "values"]
        assert f.get_tensor("values").size == masks.alive
