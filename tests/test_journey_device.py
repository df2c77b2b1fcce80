"""The journey, end to end: fit to a microcontroller -> file -> C -> image -> emulated board -> PyTorch's labels."""

import shutil

import pytest
import torch
from typer.testing import CliRunner

import resprout as rs
from resprout import models
from resprout.cli import app
from resprout.deploy import encoding
from resprout.deploy.devices import device
from resprout.deploy.export import board
from resprout.tasks.digits import digits

DEVICE = "cortex-m4-stm32f302"  # 32 KiB of flash, 16 KiB of RAM; the dense network would take three times that flash
TOOLS = {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}
MISSING = [package for tool, package in TOOLS.items() if not shutil.which(tool)]


def resprout(*words: object) -> str:
    """Run a command that must succeed, and return what it printed."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, f"{words}: {result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.skipif(bool(MISSING), reason=f"needs a board: apt-get install {' '.join(MISSING)}")
def test_from_fit_to_an_emulated_board(tmp_path):
    pytest.importorskip("sklearn")
    short = ["--epochs", 8, "--dense-epochs", 6, "--no-curve", "--threads", 1]
    resprout("fit", "--device", DEVICE, "--values", "int8", *short, "--out", tmp_path / "runs")
    result = rs.Result.read(next((tmp_path / "runs").glob("*")))
    arrival, limits = result.frontier[-1], device(DEVICE)

    resprout("export", arrival.file, "--to", "c", "--out", tmp_path / "c", "--device", DEVICE)
    image = board.build(encoding.read(str(arrival.file)), limits, tmp_path / "c")
    assert limits.flash is not None
    assert limits.ram is not None
    assert 0.99 * limits.flash <= image.measured.flash <= limits.flash
    assert image.measured.ram <= limits.ram

    task = digits()
    images, labels = task.test
    images = (images - task.mean[0]) / task.std[0]
    model = rs.load(str(arrival.file), into=models.build("digits_cnn")).eval()
    with torch.no_grad():
        want = model(images)
    got = image.run(images)
    assert len(got) == 360
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert torch.equal(got.argmax(1), want.argmax(1))
    assert image.stack_used < image.measured.stack
    accuracy = float((got.argmax(1) == labels).float().mean())
    assert accuracy == pytest.approx(arrival.test, abs=1e-6)
    assert accuracy > 0.95
