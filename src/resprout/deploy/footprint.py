"""What a network takes of a microcontroller's flash: its weights as counted, the rest of the image as linked.

The constant arrays of the C export are counted exactly for any masks. Everything else of the image (code, tables,
start-up) comes from the linker map of an image that was built for the device; where its compiler is not at hand, from
the figure that the device's profile records.

What this file does not do: limits (`flash.py`, `ram.py`).
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass

import torch
from torch import nn

from ..core.errors import BudgetError
from ..core.masks import Masks
from . import encoding
from .encoding import Archive
from .export.board import measure
from .export.source import weight_bytes
from .target import Target

ROOM = 1 << 28  # bytes of memory where sizes are measured, so that everything links
TOOLS = ("make", "arm-none-eabi-gcc")


@dataclass(frozen=True)
class Rest:
    """The bytes of flash besides the weights, and how they are known: "linked", or "recorded" of another network."""

    size: int
    how: str


def as_stored(model: nn.Module, masks: Masks, target: Target) -> Archive:
    """Return the archive as it would be read back from its file, where biases and norms are rounded."""
    archive = encoding.archive(model, masks, target.values, target.traced)
    half = {n: t.half().float() for n, t in archive.rest.items()}
    if target.values == "fp32" or not all(torch.isfinite(t).all() for t in half.values()):
        return archive
    return dataclasses.replace(archive, rest=half)


def weights(model: nn.Module, masks: Masks, target: Target) -> int:
    """Return the bytes of all constant arrays in the C export."""
    return weight_bytes(as_stored(model, masks, target))


def rest(model: nn.Module, masks: Masks, target: Target, again: bool = False) -> Rest:
    """Return what the image takes besides; linked once for a target, or `again` with the network of now.

    Raises:
        BudgetError: no image is built for the device, or there is neither its compiler nor a recorded figure.
    """
    if again or "rest" not in target.known:
        target.known["rest"] = _rest(model, masks, target)
    return target.known["rest"]


def _rest(model: nn.Module, masks: Masks, target: Target) -> Rest:
    device = target.board
    if device.image is None:
        raise BudgetError(
            f"{device.name} is no microcontroller, so flash and RAM are no limit there; a budget in bytes ('64KiB') "
            "limits the file"
        )
    if all(map(shutil.which, TOOLS)):
        archive = as_stored(model, masks, target)
        measured = measure(archive, dataclasses.replace(device, flash=ROOM, ram=ROOM))
        return Rest(measured.flash - weight_bytes(archive), "linked")
    if device.image.recorded is None:
        raise BudgetError(
            f"flash on {device.name} is measured by linking an image, which needs {' and '.join(TOOLS)} (on Debian: "
            "apt-get install make gcc-arm-none-eabi libnewlib-arm-none-eabi); its profile records no figure"
        )
    return Rest(device.image.recorded.bytes, "recorded")
