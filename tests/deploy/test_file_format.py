"""docs/file-format.md is true and enough: a reader made from it alone, and its tables."""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import resprout as rs
from resprout.deploy.rice import Rice, rice
from resprout.deploy.sparse import fold, powers

PAGE = (Path(__file__).parents[2] / "docs" / "file-format.md").read_text()

# -- the reader: standard library only -----------------------------------------------------------------------------


def open_safetensors(data: bytes):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    meta, body = header.pop("__metadata__"), data[8 + length :]
    assert all(entry["dtype"] == "U8" for entry in header.values())
    return meta, {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}


def bits_of(data: bytes):
    return [byte >> i & 1 for byte in data for i in range(8)]


def read_rice(unary: bytes, low: bytes, count: int, k: int):
    unary_bits, low_bits, numbers = iter(bits_of(unary)), iter(bits_of(low)), []
    for _ in range(count):
        x = 0
        while unary and not next(unary_bits):
            x += 1
        numbers.append((x << k) + sum(next(low_bits) << i for i in range(k)))
    return numbers


def read_weight(values: str, shape, alive: int, row, data: bytes):
    """The dense flat list, and the bytes taken."""
    at = 4

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return data[at - n : at]

    flat, place = [0.0] * int(np.prod(shape)), -1
    gaps = read_rice(take(row[1]), take((alive * row[0] + 7) // 8), alive, row[0])
    places = [place := place + 1 + gap for gap in gaps]
    if values in ("fp32", "fp16"):
        kind = {"fp32": "f", "fp16": "e"}[values]
        weights = struct.unpack(f"<{alive}{kind}", take(alive * struct.calcsize(kind)))
    else:
        values_k, values_unary, centre, scales_k, scales_unary, base = row[2:]
        codes = []
        for x in read_rice(take(values_unary), take((alive * values_k + 7) // 8), alive, values_k):
            magnitude = centre - (x + 2) // 4 if x & 2 else centre + x // 4
            codes.append(-magnitude if x & 1 else magnitude)
        width = len(flat) // shape[0]
        channels = sorted({p // width for p in places})
        numbers = read_rice(take(scales_unary), take((len(channels) * scales_k + 7) // 8), len(channels), scales_k)
        scales = {c: 2.0 ** (-(base + x) / 4) for c, x in zip(channels, numbers, strict=True)}
        weights = [c * scales[p // width] for c, p in zip(codes, places, strict=True)]
    for p, w in zip(places, weights, strict=True):
        flat[p] = w
    assert int.from_bytes(data[:4], "little") == zlib.crc32(data[4:at])
    return flat, at


def read_file(data: bytes):
    meta, tensors = open_safetensors(data)
    assert meta["format"] == "resprout-2"
    claims = json.dumps({k: v for k, v in meta.items() if k != "checksum"}, sort_keys=True)
    sha = hashlib.sha256(claims.encode())
    for name in ("index", "rest", "weights"):
        sha.update(f"{name}:torch.uint8:({len(tensors[name])},);".encode() + tensors[name])
    assert meta["checksum"] == sha.hexdigest()[:32]
    index, found, at = json.loads(zlib.decompress(tensors["index"])), {}, 0
    for name, shape, alive, *row in index["weights"]:
        found[name], taken = read_weight(meta["values"], shape, alive, row, tensors["weights"][at:])
        at += taken
    assert at == len(tensors["weights"])
    raw, width = tensors["rest"], index["bits"] // 8
    if meta["values"] in ("int8", "int4"):
        planes = zlib.decompress(raw)
        n = len(planes) // width
        raw = b"".join(bytes(planes[(width - 1 - b) * n + i] for b in range(width)) for i in range(n))
    count, at = len(raw) // width, 0
    numbers = struct.unpack(f"<{count}{'e' if width == 2 else 'f'}", raw)
    for name, shape in index["rest"]:
        n = int(np.prod(shape))
        found[name], at = list(numbers[at : at + n]), at + n
    return meta, index, found


# -- its proof -----------------------------------------------------------------------------------------------------


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 30), nn.Linear(30, 4)
    ).eval()


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("traced", [False, True])
def test_a_reader_made_from_the_page_reads_the_same(tmp_path, values, traced):
    model, x = net(), torch.randn(3, 2, 4, 4)
    masks = rs.prune(model, 0.8)
    rs.save(tmp_path / "net", model, masks, values=values, example=x if traced else None, provenance={"seed": "ü"})
    meta, index, found = read_file((tmp_path / "net").read_bytes())
    loaded = rs.load(tmp_path / "net", net()).state_dict()
    assert meta["values"] == values
    assert json.loads(meta["provenance"]) == {"seed": "ü"}
    for name, _, _, *_ in index["weights"]:
        assert torch.allclose(torch.tensor(found[name]), loaded[name].reshape(-1), rtol=1e-6)
    if not traced:
        rest = {n: t for n, t in loaded.items() if t.is_floating_point() and n not in masks}
        assert list(rest) == [name for name, _ in index["rest"]]
        assert all(torch.equal(torch.tensor(found[n]), t.reshape(-1)) for n, t in rest.items())
        return
    assert index["folds"] == ["1", 0, 0]
    kinds = [kind for kind, _ in index["program"][1:]]
    assert kinds == ["conv", "flatten", "linear", "linear"]
    names = [name for name, *_ in index["weights"] + index["rest"]]
    conv = index["program"][1][1]
    assert (names[conv["weight"]], names[conv["bias"]]) == ("0.weight", "1.bias")
    w = torch.tensor(found["0.weight"]).view(6, 2, 3, 3)
    ours = nn.functional.conv2d(x, w, torch.tensor(found["1.bias"]), padding=1)
    assert torch.allclose(ours, rs.load(tmp_path / "net", net())[:2](x), rtol=1e-4, atol=1e-5)


def rows(cells: int):
    """The rows of tables with that many cells, as text without quotes."""
    found = [
        [c.strip().strip("`") for c in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"
    ]
    return [row for row in found if len(row) == cells]


def whole(text: str) -> np.ndarray:
    return np.array([int(n) for n in text.split(",")], np.int64)


def test_rice_codes_of_the_page():
    seen = [row for row in rows(4) if re.fullmatch(r"[\d, ]+", row[0])]
    assert len(seen) == 4
    for numbers, k, unary, low in seen:
        streams = [b"" if s == "none" else bytes([int(s, 2)]) for s in (unary, low)]
        assert read_rice(*streams, len(whole(numbers)), int(k)) == whole(numbers).tolist()
        code = Rice(whole(numbers), int(k), len(streams[0]))
        assert (code.unary.tobytes(), code.low.tobytes()) == tuple(streams)


def test_places_integers_and_scales_of_the_page():
    two = [row for row in rows(2) if re.fullmatch(r"[\d, ]+", row[0])]
    three = [row for row in rows(3) if re.fullmatch(r"-?\d+", row[0])]
    assert (len(two), len(three)) == (2, 3)
    for alive, gaps in two:
        assert (np.diff(whole(alive), prepend=-1) - 1).tolist() == whole(gaps).tolist()
    centre, codes, numbers = three[0]
    assert fold(whole(codes).astype(np.int8), int(centre)).tolist() == whole(numbers).tolist()
    for base, exponents, scales in three[1:]:
        want = np.array([float(s) for s in scales.split(",")], np.float32)
        assert np.array_equal(powers(int(base) + whole(exponents)), want)


def test_the_best_parameter_is_the_one_of_the_page():
    assert rice(whole("3, 2, 3, 3")).k == 2
