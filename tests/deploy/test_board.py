"""A network on a Cortex-M: built, measured from the linker map, and run under the emulator as PyTorch runs it."""

import dataclasses
import shutil
import subprocess

import pytest
import torch
from programs import everything, random_archive

import resprout as rs
from resprout.deploy.devices import Device, Image, device, devices
from resprout.deploy.export import board
from resprout.deploy.export.c import ram
from resprout.deploy.export.source import weight_bytes
from resprout.deploy.interpret import run
from resprout.deploy.program import Program

LM3S6965 = device("cortex-m3-lm3s6965")


def like(core: str, ram: int, flags: tuple[str, ...], machine: str) -> Device:
    """A device that qemu emulates, at its addresses."""
    return Device(core, core, "", 256 << 10, ram, image=Image(flags, 0, 0x20000000, machine))


HARD = "-mfloat-abi=hard"
M0 = like("Cortex-M0", 16 << 10, ("-mcpu=cortex-m0",), "microbit")
M4 = like("Cortex-M4F", 1 << 18, ("-mcpu=cortex-m4", HARD, "-mfpu=fpv4-sp-d16"), "mps2-an386")
M7 = like("Cortex-M7F", 1 << 18, ("-mcpu=cortex-m7", HARD, "-mfpu=fpv5-d16"), "mps2-an500")
PROGRAM = Program((2, 6, 6), everything())

needs_compiler = pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"), reason="needs arm-none-eabi-gcc: apt-get install gcc-arm-none-eabi"
)
needs_emulator = pytest.mark.skipif(
    not shutil.which("qemu-system-arm"), reason="needs qemu-system-arm: apt-get install qemu-system-arm"
)


@needs_compiler
@needs_emulator
@pytest.mark.parametrize("on", [M0, LM3S6965, M4, M7], ids=lambda b: b.name)
@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_the_board_computes_what_pytorch_computes(tmp_path, on, values):
    archive = random_archive(PROGRAM, values)
    x = torch.randn(5, *PROGRAM.input, generator=torch.Generator().manual_seed(5))
    image = board.build(archive, on, tmp_path)
    torch.testing.assert_close(image.run(x), run(PROGRAM, archive.tensors(), x), rtol=1e-4, atol=1e-4)
    assert 100 < image.stack_used < image.measured.stack


@needs_compiler
@pytest.mark.parametrize("on", [LM3S6965, M4], ids=lambda b: b.name)
def test_flash_is_the_size_of_what_is_flashed(tmp_path, on):
    image = board.build(random_archive(PROGRAM, "int8"), on, tmp_path)
    flashed = tmp_path / "flash.bin"
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", tmp_path / "board" / "net.elf", flashed], check=True)
    got = image.measured
    assert got.flash == flashed.stat().st_size
    assert got.weights < got.constants < got.flash
    said = subprocess.run(
        ["arm-none-eabi-size", tmp_path / "board" / "net.elf"], capture_output=True, text=True, check=True
    )
    text, data, bss = (int(n) for n in said.stdout.splitlines()[1].split()[:3])
    assert (text + data, data + bss) == (got.flash, got.ram)


@needs_compiler
@pytest.mark.parametrize("name", [n for n, d in devices().items() if d.image])
def test_every_device_can_be_built_for(tmp_path, name):
    image = board.build(random_archive(PROGRAM), device(name), tmp_path)
    arena = int((tmp_path / "net.h").read_text().partition("ARENA_BYTES ")[2].split()[0])
    assert image.measured.bss == arena + 4 * (2 * 6 * 6) + 4 * 5
    assert image.measured.ram == ram(PROGRAM) == image.measured.bss + 1024


@needs_compiler
@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_only_the_weights_change_with_the_masks(values):
    """So one measurement tells the flash of every other mask (but for what the compiler sees in tables of zeros)."""
    found = [random_archive(PROGRAM, values, density, seed) for seed, density in enumerate((0.1, 0.35, 0.8))]
    measured = [board.measure(archive, LM3S6965) for archive in found]
    overhead = [m.flash - m.weights for m in measured]
    assert max(overhead) - min(overhead) <= 8
    assert [m.weights for m in measured] == [weight_bytes(archive) for archive in found]


@needs_compiler
def test_a_board_that_is_too_small_says_by_how_much():
    archive = random_archive(PROGRAM, "fp32", density=1.0)
    fits = board.measure(archive, LM3S6965)
    for part, word in (("flash", "flash"), ("ram", "RAM")):
        exact = dataclasses.replace(LM3S6965, **{part: getattr(fits, part)})
        assert board.measure(archive, exact) == fits
        small = dataclasses.replace(LM3S6965, **{part: getattr(fits, part) - 12})
        with pytest.raises(rs.BudgetError, match=rf"would need 12 bytes more {word}"):
            board.measure(archive, small)


@needs_compiler
@needs_emulator
def test_a_stack_that_is_too_small_is_a_fault_and_no_wrong_answer(tmp_path):
    image = board.build(random_archive(PROGRAM), LM3S6965, tmp_path)
    make = tmp_path / "board.mk"  # the image depends on it
    make.write_text(make.read_text().replace("STACK := 1024", "STACK := 256"))
    with pytest.raises(rs.ResproutError, match=r"make emulate in .* failed"):
        image.run(torch.zeros(1, *PROGRAM.input))


@needs_compiler
def test_a_board_that_nobody_emulates_and_inputs_of_another_shape(tmp_path):
    image = board.build(random_archive(PROGRAM), device("rp2040"), tmp_path)
    with pytest.raises(rs.ResproutError, match="qemu emulates no board like"):
        image.run(torch.zeros(1, *PROGRAM.input))
    image = dataclasses.replace(image, device=LM3S6965)
    for shape in [(1, 2, 6), (0, 2, 6, 6), (1, 6, 6, 2)]:
        with pytest.raises(rs.ResproutError, match=r"the inputs must be \(N, 2, 6, 6\)"):
            image.run(torch.zeros(shape))


def test_a_missing_tool_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(rs.ResproutError, match="make is not installed; on Debian: apt-get install make"):
        board.measure(random_archive(PROGRAM), LM3S6965)
    (tmp_path / "make").symlink_to("/bin/true")
    with pytest.raises(rs.ResproutError, match="apt-get install gcc-arm-none-eabi"):
        board.measure(random_archive(PROGRAM), LM3S6965)
