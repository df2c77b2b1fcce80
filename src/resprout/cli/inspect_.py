"""`resprout inspect`: what is inside a saved file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from .. import models
from ..core.store import read_safetensors
from ..deploy import encoding
from .flags import console, plain_errors


@plain_errors
def inspect(
    file: Annotated[
        Path, typer.Argument(help="A file of `resprout fit`, `prune`, `regrow` or `save`, or any safetensors.")
    ],
    model: Annotated[str | None, typer.Option(help="Its network: names the tensors, and checks that it fits.")] = None,
) -> None:
    """Show what a saved file holds: metadata, counts, bytes."""
    meta, tensors = read_safetensors(file)
    console().print(f"{file}  {file.stat().st_size:,} bytes", style="bold", markup=False)
    if meta.get("format") == encoding.FORMAT:
        _ours(file, model)
    else:
        _any(meta, tensors)


def _ours(file: Path, model: str | None) -> None:
    meta, tensors = encoding.read(file)
    page, counts = console(), json.loads(meta["counts"])
    page.print(
        f"format {meta['format']}, values {meta['values']}, layout {meta['layout']}, checksum sound", markup=False
    )
    if "provenance" in meta:
        page.print(f"provenance {meta['provenance']}", markup=False)
    table = _table("tensor", "size", "alive", "sparsity", "bytes of places", "bytes of values")
    width = tensors["values"].element_size()
    shapes: dict[str, tuple[int, ...]] = {}
    if model is not None:
        network = models.build(model)
        encoding.decode(file, network)  # raises where it does not fit
        which = json.loads(meta["which"])
        shapes = {n: tuple(t.shape) for i, (n, t) in enumerate(network.state_dict().items()) if i in which}
    names = list(shapes) or [f"tensor {i}" for i in range(len(counts))]
    for name, (codes, alive) in zip(names, counts, strict=True):
        size = torch.Size(shapes[name]).numel() if name in shapes else 0
        sparsity = f"{100 * (1 - alive / size):.2f} %" if size else ""
        table.add_row(name, f"{size:,}" if size else "", f"{alive:,}", sparsity, f"{codes:,}", f"{alive * width:,}")
    page.print(table)
    parts = {n: t.numel() * t.element_size() for n, t in tensors.items()}
    header = file.stat().st_size - sum(parts.values())
    page.print(
        f"{sum(a for _, a in counts):,} weights alive: places {parts['places']:,} bytes, values {parts['values']:,} bytes"
    )
    page.print(f"rest (biases, norms, statistics) {parts['rest']:,} bytes, header {header:,} bytes")
    if model is None:
        page.print("--model NAME names the tensors and gives their sparsity")


def _any(meta: dict[str, str], tensors: dict[str, Tensor]) -> None:
    page = console()
    page.print("a plain safetensors file, not in our sparse format")
    for key, value in meta.items():
        page.print(f"{key}: {value}", markup=False)
    table = _table("tensor", "shape", "type", "nonzero", "sparsity")
    for name, t in tensors.items():
        alive = int(torch.count_nonzero(t))
        sparsity = f"{100 * (1 - alive / max(t.numel(), 1)):.2f} %"
        table.add_row(name, "x".join(map(str, t.shape)), str(t.dtype).removeprefix("torch."), f"{alive:,}", sparsity)
    page.print(table)
    page.print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
