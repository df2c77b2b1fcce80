"""Device profiles: one TOML file each, in this folder. To add a device, add a file; its figures cite their source.

    core = "Cortex-M4F"          # in words
    flash = 524288               # bytes; left out where it is no limit
    ram = 131072                 # bytes in one piece
    clock = 100_000_000          # Hz
    source = "https://..."       # the document that says so

    [image]                      # for a microcontroller: how the C export is built for it
    flags = ["-mcpu=cortex-m4"]  # of arm-none-eabi-gcc
    flash_origin = 0x08000000
    ram_origin = 0x20000000
    machine = "mps2-an386"       # of qemu-system-arm; left out where it emulates none like it

    [image.recorded]             # an image linked once, for machines without the compiler
    bytes = 9000                 # of flash besides the weights
    of = "resnet20, arm-none-eabi-gcc 12.2"

What this file does not do: build anything (`../export/board.py`).
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ...core.errors import ResproutError, nearest

DEFAULT = "cortex-m3-lm3s6965"  # what a flash or RAM budget speaks of where no device is named


@dataclass(frozen=True)
class Recorded:
    """The bytes of flash that an image took besides its weights, and which image that was."""

    bytes: int
    of: str


@dataclass(frozen=True)
class Image:
    """How the C export is built for a microcontroller."""

    flags: tuple[str, ...]
    flash_origin: int
    ram_origin: int
    machine: str | None = None
    recorded: Recorded | None = None


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        name: as in `--device`.
        core: the processor, in words.
        source: the document with these figures.
        flash, ram: bytes that a network may take, or None where they are no limit.
        clock: in Hz.
        image: how the C export is built for it; None where the runtime runs instead.
        note: what one should know about the figures.
    """

    name: str
    core: str
    source: str
    flash: int | None = None
    ram: int | None = None
    clock: int | None = None
    image: Image | None = None
    note: str = ""

    @property
    def budget(self) -> str | None:
        """The limits as `Budget.parse` reads them, or None where there are none."""
        limits = [f"{size}B {kind}" for kind, size in (("flash", self.flash), ("ram", self.ram)) if size is not None]
        return ", ".join(limits) or None


@functools.cache
def devices() -> dict[str, Device]:
    """Return all profiles by name.

    Raises:
        ResproutError: a profile that cannot be read.
    """
    files = sorted((f for f in resources.files(__name__).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    found = {}
    for file in files:
        name = file.name.removesuffix(".toml")
        try:
            found[name] = _device(name, tomllib.loads(file.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise ResproutError(f"the device profile {file} cannot be read: {error!r}") from error
    return found


def _device(name: str, facts: dict[str, Any]) -> Device:
    image = facts.pop("image", None)
    if image is not None:
        recorded = Recorded(**image["recorded"]) if "recorded" in image else None
        image = Image(**image | {"flags": tuple(image["flags"]), "recorded": recorded})
    return Device(name, image=image, **facts)


def device(name: str) -> Device:
    """Return a profile.

    Raises:
        ResproutError: an unknown name, with the nearest ones.
    """
    if name not in devices():
        raise nearest(name, devices(), "device")
    return devices()[name]
