"""Files that are cut short, damaged, forged or foreign: a clear error, never a wrong tensor or a giant one."""

import copy
import json
import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as serialize
from test_encoding import VALUES, X, masked, net
from torch import Tensor, nn

import resprout as rs
from resprout.core.store import checksum, read_safetensors
from resprout.deploy import encoding
from resprout.deploy.encoding import read
from resprout.deploy.sparse import unpack


@pytest.fixture(scope="module", params=["fp16", "int8"])
def good(request, tmp_path_factory) -> tuple[bytes, dict[str, Tensor]]:
    model = net()
    masks = masked(model, 0.2, 9)
    path = tmp_path_factory.mktemp("good") / "net"
    rs.save(path, model, masks, values=request.param, example=X)
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


def test_every_byte_counts(tmp_path, good):
    data, right = good
    header, draw = 8 + int.from_bytes(data[:8], "little"), random.Random(1)
    for at in range(len(data)):
        broken = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        (tmp_path / "net").write_bytes(broken)
        try:
            read(tmp_path / "net")
        except rs.CheckpointError:
            continue
        assert at < header, "changes without meaning are only in the header"
        assert outcome(tmp_path / "net", broken, right) == "right"


def test_damaged_files_are_refused_and_never_silently_wrong(tmp_path, good):
    data, right = good
    draw, counts = random.Random(1), {"refused": 0, "right": 0}
    header = 8 + int.from_bytes(data[:8], "little")
    for i in range(300):
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
    assert counts["refused"] > 260  # what is left are changes without meaning


def forge(data: bytes, path, change) -> None:
    """Write a file with a sound checksum in which `change(index, meta, weights)` was made: what an attacker can do."""
    path.write_bytes(data)
    meta, tensors = read_safetensors(path)
    index = json.loads(zlib.decompress(tensors["index"].numpy().tobytes()))
    weights, rest = bytearray(tensors["weights"].numpy().tobytes()), tensors["rest"]
    made = change(index, meta, weights)
    deflated = made if isinstance(made, bytes) else zlib.compress(json.dumps(index).encode())
    flat = {"index": deflated, "weights": bytes(weights) or b"\0"}
    tensors = {n: torch.frombuffer(bytearray(b), dtype=torch.uint8) for n, b in flat.items()} | {"rest": rest}
    meta.pop("checksum")
    claims = json.dumps(meta, sort_keys=True)
    path.write_bytes(serialize(tensors, meta | {"checksum": checksum(tensors, claims)[:32]}))


def put(*path):
    """A change of the index: set what `path[:-1]` leads to to `path[-1]`."""

    def change(index, meta, weights):
        for key in path[:-2]:
            index = index[key]
        index[path[-2]] = path[-1]

    return change


HOSTILE = {
    "shape of 2^40": put("weights", 1, 1, [1 << 20, 1 << 20]),
    "shape of 2^39 each": put("weights", 1, 1, [1 << 39] * 8),
    "shape too large": put("weights", 1, 1, [1 << 41]),
    "negative shape": put("weights", 1, 1, [-50, -12]),
    "shape of nothing": put("weights", 1, 1, [0, 12]),
    "shape without sides": put("weights", 1, 1, []),
    "shape of text": put("weights", 1, 1, "50"),
    "shape of floats": put("weights", 1, 1, [50.0, 12]),
    "other shape": put("weights", 1, 1, [12, 50]),
    "smaller shape": put("weights", 1, 1, [2, 2]),
    "alive too many": put("weights", 1, 2, 1 << 39),
    "alive one more": lambda i, m, w: put("weights", 1, 2, i["weights"][1][2] + 1)(i, m, w),
    "alive none": put("weights", 1, 2, 0),
    "alive true": put("weights", 1, 2, True),
    "k of 200": put("weights", 1, 3, 200),
    "k of 40": put("weights", 1, 3, 40),
    "k negative": put("weights", 1, 3, -1),
    "k null": put("weights", 1, 3, None),
    "unary of 2^39": put("weights", 1, 4, 1 << 39),
    "unary negative": put("weights", 1, 4, -5),
    "unary none": put("weights", 1, 4, 0),
    "row too short": lambda i, m, w: i["weights"][1].pop(),
    "row too long": lambda i, m, w: i["weights"][1].append(0),
    "no row": put("weights", 1, []),
    "weight missing": lambda i, m, w: i["weights"].pop(1),
    "weight twice": lambda i, m, w: i["weights"].append(i["weights"][1]),
    "name in both": put("rest", 0, 0, "3.weight"),
    "name of a number": put("weights", 1, 0, 7),
    "other name": put("weights", 1, 0, "4.wait"),
    "rest too large": put("rest", 0, 1, [1 << 39]),
    "rest one more": put("rest", 0, 1, [4]),
    "rest missing": lambda i, m, w: i.pop("rest"),
    "bits 8": put("bits", 8),
    "bits 0": put("bits", 0),
    "bits 32": put("bits", 32),
    "ties in a circle": put("ties", {"a": "b", "b": "a"}),
    "ties onto itself": put("ties", {"3.weight": "3.weight"}),
    "ties to a list": put("ties", {"a": ["3.weight"]}),
    "folds too few": put("folds", ["1"]),
    "folds of numbers": put("folds", [1, 2, 3]),
    "program of numbers": put("program", 5),
    "program empty": put("program", []),
    "program of another input": put("program", 0, [2, 5, 5]),
    "program of a huge input": put("program", 0, [2, 1 << 20, 1 << 20]),
    "program with a weight too many": put("program", 1, 1, "weight", 99),
    "program with another weight": put("program", 1, 1, "weight", 1),
    "program with other channels": put("program", 1, 1, "channels", 4),
    "program that reads ahead": put("program", 1, 1, "inputs", [5]),
    "program of unknown kind": put("program", 1, 0, "fork"),
    "no weights": lambda i, m, w: w.clear(),
    "bytes behind": lambda i, m, w: w.extend(b"\0"),
    "bytes missing": lambda i, m, w: w.pop(),
    "crc": lambda i, m, w: w.__setitem__(0, w[0] ^ 1),
    "zlib bomb": lambda i, m, w: zlib.compress(b" " * (1 << 24)),
    "deep index": lambda i, m, w: zlib.compress(b"[" * 100_000),
    "index of a number": lambda i, m, w: zlib.compress(b"1"),
    "index of digits": lambda i, m, w: zlib.compress(b"1" * 10_000),
    "index not deflated": lambda i, m, w: b"{}",
    "index cut": lambda i, m, w: zlib.compress(b"{}")[:-2],
    "index and more": lambda i, m, w: zlib.compress(b"{}") + b"x",
    "index empty": lambda i, m, w: zlib.compress(b""),
    "values of another kind": lambda i, m, w: m.update(values="fp32"),
    "unknown values": lambda i, m, w: m.update(values="int2"),
    "old format": lambda i, m, w: m.update(format="resprout-gaps-1"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_with_a_sound_checksum_are_refused(tmp_path, good, what):
    forge(good[0], tmp_path / "net", HOSTILE[what])
    with pytest.raises(rs.CheckpointError):
        rs.load(tmp_path / "net", net(7))


def test_the_forger_can_forge(tmp_path, good):
    forge(good[0], tmp_path / "net", lambda i, m, w: None)
    assert outcome(tmp_path / "net", (tmp_path / "net").read_bytes(), good[1]) == "right"


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_number_in_the_index_may_be_any_other(tmp_path_factory, good, data):
    folder = tmp_path_factory.mktemp("forged")

    def change(index, meta, weights):
        row = data.draw(st.sampled_from(index["weights"]))
        row[data.draw(st.integers(2, len(row) - 1))] = data.draw(
            st.integers(-3, 300) | st.sampled_from([1 << 31, 1 << 39, (1 << 40) - 1, -(1 << 39), 1 << 63, 1 << 70])
        )

    forge(good[0], folder / "net", change)
    try:
        whole = read(folder / "net")
    except rs.CheckpointError:
        return
    for sparse in whole.weights.values():  # another exponent of a scale is another file, but never a wild one
        assert sparse.dense().isfinite().all()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_streams_of_any_bytes_are_refused_or_lie_within_the_tensor(data):
    row = data.draw(st.lists(st.integers(-2, 50) | st.integers(0, 7), min_size=8, max_size=8))
    streams = np.frombuffer(data.draw(st.binary(max_size=60)), np.uint8)
    values, alive = data.draw(st.sampled_from(VALUES)), data.draw(st.integers(0, 40))
    try:
        sparse, taken = unpack((5, 8), alive, row if values.startswith("int") else row[:2], streams, values)
    except rs.CheckpointError:
        return
    assert taken <= len(streams)
    assert sparse.dense().isfinite().all()
    assert sparse.alive == alive == len(set(sparse.places.tolist()))
    assert ((sparse.places >= 0) & (sparse.places < 40)).all()


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    model = net()
    before = copy.deepcopy(model.state_dict())
    save_file(model.state_dict(), tmp_path / "plain")
    torch.save(model.state_dict(), tmp_path / "pickle")
    (tmp_path / "text").write_text("hello" * 100)
    rs.save(tmp_path / "other", nn.Sequential(nn.Linear(3, 4)))
    rs.save(tmp_path / "less", net()[:4])
    rs.save(tmp_path / "more", nn.Sequential(*net(), nn.Linear(4, 4)))
    (tmp_path / "folder").mkdir()
    for name, match in [
        ("plain", "is no file of format"),
        ("pickle", "cannot be read"),
        ("text", "cannot be read"),
        ("other", "belongs to another model"),
        ("less", "belongs to another model"),
        ("more", "belongs to another model"),
        ("absent", "cannot be read"),
        ("folder", "cannot be read"),
    ]:
        with pytest.raises(rs.CheckpointError, match=match):
            rs.load(tmp_path / name, into=model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_small_file_for_a_huge_tensor_makes_no_huge_tensor():
    with pytest.raises(rs.CheckpointError, match="cannot hold that many weights"):
        encoding.Index({"w": ((1 << 20, 1 << 20), 0, [0, 0])}, {}, 16).check(1000)
