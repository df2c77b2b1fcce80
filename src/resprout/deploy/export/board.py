"""Build a network's C source for a Cortex-M, read what it takes from the linker map, and run it under an emulator.

The image is whole: start-up code, the network, and a main function that reads inputs and writes outputs through the
debugger's or emulator's file calls. What is measured is what runs.

What this file does not do: time anything. The emulator computes what the chip computes, not when.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import BudgetError, ResproutError
from ..devices import Device
from ..encoding import Archive
from ..program import Program
from .c import export

PACKAGES = {
    "make": "make",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
SECTION = re.compile(r"^\.(text|rodata|stack|data|bss) +0x[0-9a-f]+ +0x([0-9a-f]+)", re.M)
OVERFLOW = re.compile(r"region `(FLASH|RAM)' overflowed by (\d+) bytes")


@dataclass(frozen=True)
class Measured:
    """What an image takes, in bytes, from the linker map.

    Attributes:
        code: instructions: of the network, of its start-up, and of arithmetic that the core lacks.
        constants: read-only data, most of it weights.
        weights: of these the weights, as counted when the source was made.
        data: variables with a first value, which take flash and RAM.
        bss: variables that begin as zero: the arena, one input and one output.
        stack: set aside for the stack.
    """

    code: int
    constants: int
    weights: int
    data: int
    bss: int
    stack: int

    @property
    def flash(self) -> int:
        """Code, constants, and the first values of variables."""
        return self.code + self.constants + self.data

    @property
    def ram(self) -> int:
        """Variables and the stack."""
        return self.data + self.bss + self.stack


@dataclass(frozen=True)
class Image:
    """A network built for a device, in a folder that must outlive it."""

    folder: Path
    device: Device
    program: Program
    measured: Measured

    def run(self, inputs: Tensor, timeout: float = 600) -> Tensor:
        """Return the outputs for inputs (N, *program.input), as the emulated board computes them.

        Raises:
            ResproutError: no emulator for this board, inputs of another shape, a program that faults, or no answer
                within `timeout` seconds.
        """
        if self.device.image is None or self.device.image.machine is None:
            raise ResproutError(f"qemu emulates no board like {self.device.name}; it can be built, not run")
        if tuple(inputs.shape[1:]) != self.program.input or not len(inputs):
            raise ResproutError(
                f"the inputs must be (N, {', '.join(map(str, self.program.input))}), got {tuple(inputs.shape)}"
            )
        _need("qemu-system-arm")
        (self.folder / "input.bin").write_bytes(inputs.detach().cpu().numpy().astype("<f4").tobytes())
        _make(self.folder, "emulate", timeout)
        outputs = np.fromfile(self.folder / "output.bin", "<f4").astype(np.float32)
        return torch.from_numpy(outputs).reshape(len(inputs), *self.program.output)

    @property
    def stack_used(self) -> int:
        """The bytes of the stack that the last `run` touched."""
        return int(np.fromfile(self.folder / "stack.bin", "<u4")[0])


def build(archive: Archive, device: Device, folder: str | Path) -> Image:
    """Write the network's source into a folder, and build the image there.

    Raises:
        BudgetError: it does not fit into the board's flash or RAM; the message says by how much.
        ResproutError: a tool is missing; the message names its Debian package.
    """
    _need("make")
    _need("arm-none-eabi-gcc")
    made = export(archive, folder, device=device)
    assert archive.program is not None
    try:
        _make(Path(folder), "image", 600)
    except ResproutError as error:
        over = OVERFLOW.findall(str(error))
        if not over:
            raise
        parts = " and ".join(f"{int(by):,} bytes more {part.lower() if part == 'FLASH' else part}" for part, by in over)
        raise BudgetError(f"{device.name} would need {parts} for this network") from error
    sizes = {name: int(size, 16) for name, size in SECTION.findall((Path(folder) / "board" / "net.map").read_text())}
    measured = Measured(
        sizes["text"], sizes["rodata"], made.weight_bytes, sizes.get("data", 0), sizes.get("bss", 0), sizes["stack"]
    )
    return Image(Path(folder), device, archive.program, measured)


def measure(archive: Archive, device: Device) -> Measured:
    """Return the flash and RAM that a network takes on a board; raises as `build` does."""
    with tempfile.TemporaryDirectory() as folder:
        return build(archive, device, folder).measured


def run(archive: Archive, device: Device, inputs: Tensor) -> Tensor:
    """Return a network's outputs (N, *output) as the emulated board computes them; raises as `Image` and `build` do."""
    with tempfile.TemporaryDirectory() as folder:
        return build(archive, device, folder).run(inputs)


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        raise ResproutError(f"{tool} is not installed; on Debian: apt-get install {PACKAGES[tool]}")


def _make(folder: Path, target: str, timeout: float) -> None:
    command = ["make", "--silent", "-C", str(folder), target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise ResproutError(f"make {target} in {folder} gave no answer within {timeout:g} seconds") from error
    if done.returncode:
        raise ResproutError(f"make {target} in {folder} failed: {(done.stderr or done.stdout).strip()}")
