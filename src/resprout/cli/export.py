"""`resprout export`: a saved network as C99, ONNX or a plain PyTorch `state_dict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from .. import models
from ..core.errors import ResproutError, nearest
from ..deploy import encoding
from ..deploy.devices import DEFAULT
from ..deploy.devices import device as profile
from ..deploy.export import c
from ..deploy.export.onnx import to_onnx
from ..deploy.export.torch_ import to_torch
from ..graph.shape import Shape, reshape
from .flags import console, plain_errors

KINDS = ("c", "onnx", "torch")


@plain_errors
def export(
    file: Annotated[Path, typer.Argument(help="A file of `resprout fit`, or of rs.save with an example.")],
    to: Annotated[str, typer.Option(help="c (for a microcontroller), onnx, or torch (a plain state_dict).")],
    out: Annotated[Path, typer.Option(help="Folder to write to (c), or file (onnx, torch).")],
    name: Annotated[str, typer.Option(help="Of the C files and functions.")] = "net",
    device: Annotated[str, typer.Option(help="Microcontroller that the Makefile builds an image for.")] = DEFAULT,
    model: Annotated[str | None, typer.Option(help="The network, for torch: it knows the names of its norms.")] = None,
) -> None:
    """Write a saved network as C99 source, as ONNX, or as a plain PyTorch `state_dict`."""
    if to not in KINDS:
        raise nearest(to, KINDS, "--to")
    archive, page = encoding.read(file), console()
    if to == "c":
        made = c.export(archive, out, name=name, device=profile(device))
        page.print(f"wrote {out / name}.c and {name}.h, a test, and what an image for {device} needs", markup=False)
        page.print(
            f"flash: {made.weight_bytes:,} bytes of weights, and code; make -C {out} image builds and measures",
            markup=False,
        )
        page.print(f"RAM: {made.arena_bytes:,} bytes between the operations, one input, one output, and the stack")
        return
    if to == "torch":
        size = to_torch(out, archive, None if model is None else _shaped(models.build(model), archive))
    elif archive.program is None:
        raise ResproutError(f"{file} says which weights there are, not how they are used: save it with example=...")
    else:
        size = to_onnx(out, archive.program, archive.tensors())
    page.print(f"wrote {out} ({size:,} bytes)", markup=False)


def _shaped(network: nn.Module, archive: encoding.Archive) -> nn.Module:
    """The network without what the file's has lost."""
    text = archive.metadata.get("shape")
    return network if text is None else reshape(network, Shape.from_text(text))
