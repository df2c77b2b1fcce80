"""`resprout export`: a saved network as C99, ONNX, a plain PyTorch `state_dict`, or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from .. import find, models
from ..core.errors import ResproutError, nearest
from ..deploy import encoding
from ..deploy.devices import DEFAULT
from ..deploy.devices import device as profile
from ..deploy.export import c
from ..deploy.export.onnx import to_onnx
from ..deploy.export.torch_ import to_torch
from ..deploy.file import load
from ..deploy.huggingface import Saved, has_tokenizer, load_pretrained, save_pretrained
from ..graph.shape import Shape, reshape
from .flags import console, plain_errors

KINDS = ("c", "onnx", "torch", "huggingface")


@plain_errors
def export(
    file: Annotated[
        Path, typer.Argument(help="A file of `resprout fit`, or of rs.save with an example; or a Hugging Face folder.")
    ],
    to: Annotated[
        str, typer.Option(help="c (for a microcontroller), onnx, torch (a plain state_dict), or huggingface.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to (c, huggingface), or file (onnx, torch).")],
    name: Annotated[str, typer.Option(help="Of the C files and functions.")] = "net",
    device: Annotated[str, typer.Option(help="Microcontroller that the Makefile builds an image for.")] = DEFAULT,
    model: Annotated[
        str | None,
        typer.Option(
            help="The network, for torch: it knows the names of its norms; hf:FOLDER, the dense one, for huggingface."
        ),
    ] = None,
    ragged: Annotated[
        str, typer.Option(help="For huggingface, if layers differ in size: code (in the folder), or pad (with zeros).")
    ] = "code",
) -> None:
    """Write a saved network as C99 source, as ONNX, as a plain PyTorch `state_dict`, or as a Hugging Face folder."""
    if to not in KINDS:
        raise nearest(to, KINDS, "--to")
    page = console()
    if to == "huggingface":
        page.print(str(_to_huggingface(file, out, model, ragged)), markup=False)
        return
    archive = encoding.read(file)
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


def _to_huggingface(file: Path, out: Path, model: str | None, ragged: str) -> Saved:
    """Write the folder, with the tokenizer of the network that the file belongs to."""
    if file.is_dir():
        return save_pretrained(
            load_pretrained(file), out, tokenizer=file if has_tokenizer(file) else None, ragged=ragged
        )
    if model is None or not model.startswith(find.HUB):
        raise ResproutError(f"{file} belongs to a network of Hugging Face: give its dense folder, --model hf:FOLDER")
    home = Path(model.removeprefix(find.HUB))
    network = load(file, find.network(model, None))
    return save_pretrained(network, out, tokenizer=home if has_tokenizer(home) else None, ragged=ragged)


def _shaped(network: nn.Module, archive: encoding.Archive) -> nn.Module:
    """The network without what the file's has lost."""
    text = archive.metadata.get("shape")
    return network if text is None else reshape(network, Shape.from_text(text))
