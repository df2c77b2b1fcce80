"""`resprout inspect`: what it shows is what is in the file."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import resprout as rs
from resprout import models
from resprout.cli import app
from resprout.core.store import read_safetensors
from resprout.deploy import encoding


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A file of digits_cnn in int8 with its program, and what is shown of it."""
    torch.manual_seed(0)
    model = models.build("digits_cnn").eval()
    masks, file = rs.prune(model, 0.95, allocate="uniform"), tmp_path / "net"
    rs.save(file, model, masks, values="int8", example=torch.zeros(1, 1, 8, 8), budget="16KiB")
    monkeypatch.setenv("COLUMNS", "150")
    result = CliRunner().invoke(app, ["inspect", str(file), "--model", "digits_cnn"])
    assert result.exit_code == 0, result.output
    return file, result.output.splitlines()


def test_bytes_add_up_and_each_weight_has_a_row(said):
    file, lines = said
    whole, size = encoding.read(file), file.stat().st_size
    assert f"{size:,} bytes" in lines[0]
    table = {words[0]: words[1:] for line in lines if (words := line.split()) and words[0] in whole.weights}
    assert set(table) == set(whole.weights)
    total = 0
    for name, weight in whole.weights.items():
        shape, alive, sparsity, percent, gap, bound, *streams = table[name]
        assert shape == "x".join(map(str, weight.shape))
        assert (alive, percent) == (f"{weight.alive:,}", "%")
        assert float(sparsity) == pytest.approx(100 * (1 - weight.alive / weight.size), abs=0.01)
        assert float(bound) == pytest.approx(8 * weight.entropy / weight.alive, abs=0.01)
        assert float(gap) == pytest.approx(8 * int(streams[0].replace(",", "")) / weight.alive, abs=0.01)
        total += sum(int(s.replace(",", "")) for s in streams)
    parts = {n: len(t) for n, t in read_safetensors(file)[1].items()}
    assert total == parts["weights"] - 4 * len(whole.weights)  # but for the checksums
    text = "\n".join(lines)
    assert f"weights {total:,} bytes" in text
    assert f"index {parts['index']:,}" in text


def test_program_and_metadata_are_told(said):
    file, lines = said
    whole, text = encoding.read(file), "\n".join(lines)
    assert whole.program is not None
    for word in ("budget: 16KiB", "format: resprout-2", "values: int8", "every checksum sound", "1x8x8 -> 10"):
        assert word in text
    macs = whole.program.macs()
    assert f"{sum(m * whole.weights[n].size for n, m in macs.items()):,} dense" in text
    assert f"{sum(m * whole.weights[n].alive for n, m in macs.items()):,} of weights alive" in text
    assert f"{len(whole.folds)} norms folded" in text


def test_a_damaged_file_is_one_line_of_error(said):
    file, _ = said
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)
    result = CliRunner().invoke(app, ["inspect", str(file)])
    assert result.exit_code == 2
    assert "is damaged" in result.output
    assert "Traceback" not in result.output
