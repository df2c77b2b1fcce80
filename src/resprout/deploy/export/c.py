"""Write a network as C99: source, header, test vector, Makefile, and a bare-metal image for a Cortex-M.

What this file does not do: make the source itself (`source.py`), or build and run it (`board.py`).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ...core import store
from ...core.errors import ResproutError
from ..devices import DEFAULT, Device
from ..devices import device as profile
from ..encoding import Archive
from ..interpret import run
from ..program import Program
from .fused import fused
from .source import CORE, Source, array, literal, source

TESTS = 3  # inputs of the test vector
STACK = 1024  # bytes set aside; `board.Image.stack_used` says how many are used
FILES = ("test.c", "Makefile")
BOARD_FILES = ("main.c", "board.h", "board.ld", "semihosting.c", "startup.c")


def export(
    archive: Archive,
    folder: str | Path,
    *,
    name: str = "net",
    inputs: Tensor | None = None,
    device: Device | None = None,
) -> Source:
    """Write a network into a folder as C99 that needs nothing but `<stdint.h>`.

    Args:
        archive: a file with a program, as `encoding.read` gives it.
        folder: made if absent; files in it that have the same names are replaced.
        name: of the files and the functions.
        inputs: a few for the test vector, (N, *program.input); default three of normal noise.
        device: what the Makefile builds for; default `devices.DEFAULT`.

    Returns:
        what was written as source, and what it takes.

    Raises:
        ResproutError: a file without a program, a bad name, inputs of another shape, or no microcontroller.
    """
    made = source(archive, name)
    assert archive.program is not None
    if inputs is None:
        inputs = torch.randn(TESTS, *archive.program.input, generator=torch.Generator().manual_seed(0))
    inputs = inputs.detach().cpu().float()
    outputs = run(archive.program, archive.tensors(), inputs)
    files = {f"{name}.h": made.header, f"{name}.c": made.code, f"{name}_test.h": vectors(name, inputs, outputs)}
    plain = [*FILES, *(f"board/{file}" for file in BOARD_FILES)]
    files |= {file: renamed((CORE / file).read_text(encoding="utf-8"), name) for file in plain}
    files["board.mk"] = settings(profile(DEFAULT) if device is None else device)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ResproutError(f"--out {folder} is a file; name a folder")
    for file, text in files.items():
        store.write(folder / file, text.encode())
    store.write(folder / "input.bin", inputs.numpy().astype("<f4").tobytes())
    return made


def settings(device: Device) -> str:
    """Return the variables of the Makefile for a device.

    Raises:
        ResproutError: one that no image can be built for.
    """
    image = device.image
    if image is None or device.flash is None or device.ram is None:
        raise ResproutError(f"{device.name} is no microcontroller: rs.Runtime runs the file there, no C is needed")
    return (
        f"# {device.name}: {device.core}\nCPU := {' '.join(image.flags)}\nMACHINE := {image.machine or 'none'}\n"
        f"FLASH := {device.flash:#x}\nFLASH_ORIGIN := {image.flash_origin:#x}\n"
        f"RAM := {device.ram:#x}\nRAM_ORIGIN := {image.ram_origin:#x}\nSTACK := {STACK}\n"
    )


def ram(program: Program) -> int:
    """Return the bytes of RAM that an image takes: arena, one input, one output, and the stack."""
    return 4 * (fused(program).size + math.prod(program.input) + math.prod(program.output)) + STACK


def vectors(name: str, inputs: Tensor, outputs: Tensor) -> str:
    """Return a header with inputs and the outputs expected for them."""
    upper = name.upper()
    parts = [f"/* Inputs for {name}, and what PyTorch makes of them. */", f"#define {upper}_TESTS {len(inputs)}"]
    for what, numbers in (("input", inputs), ("output", outputs)):
        declaration = f"static const float {name}_test_{what}s[{upper}_TESTS][{upper}_{what.upper()}_SIZE]"
        parts.append(array(declaration, [literal(x) for x in numbers.reshape(-1).tolist()], row=numbers[0].numel()))
    return "\n".join([*parts, ""])


def renamed(text: str, name: str) -> str:
    """Return a file that speaks of `net` for a network with another name."""
    text = re.sub(r"\bnet(?=_|\.|\b)", name, text)
    return re.sub(r"\bNET(?=_)", name.upper(), text)
