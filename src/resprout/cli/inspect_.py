"""`resprout inspect`: what is inside a saved file, or what of a network can leave."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from .. import find, models
from ..core.errors import ResproutError
from ..core.store import read_safetensors
from ..deploy import encoding
from ..deploy.file import load
from ..deploy.program import Program
from ..graph.shape import Shape
from ..graph.trace import trace
from . import structure
from .flags import columns, console, plain_errors


@plain_errors
def inspect(
    file: Annotated[
        Path | None, typer.Argument(help="A file of `resprout fit`, `prune`, `regrow` or `save`, or any safetensors.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Its network: checks that it fits. Without a file: the network to look at.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Without a file: safetensors with the network's weights.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Without a file: task that gives an input of the network.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    shape: structure.Input = None,
) -> None:
    """Show what a saved file holds; or, with --model alone, what of a network can leave, and what cannot."""
    if file is None:
        _network(model, weights, task, data, shape)
        return
    if weights is not None or task is not None or shape is not None:
        raise ResproutError("--weights, --task and --input are for a network without a FILE: name one or the other")
    meta, tensors = read_safetensors(file)
    ours = meta.get("format") == encoding.FORMAT
    archive = encoding.read(file) if ours else None
    if ours and model is not None:
        load(file, models.build(model))  # raises where it does not fit
    console().print(f"{file}  {file.stat().st_size:,} bytes", style="bold", markup=False)
    if archive is None:
        _any(meta, tensors)
    else:
        _ours(archive, {n: len(t) for n, t in tensors.items()}, file.stat().st_size)
        if "shape" in archive.metadata:
            dense = None if model is None else models.build(model)
            structure.left(Shape.from_text(archive.metadata["shape"]), dense)


def _network(model: str | None, weights: Path | None, task: str | None, data: Path | None, shape: str | None) -> None:
    """What of a network can leave."""
    if model is None:
        raise ResproutError(
            "name a FILE to see what it holds, or a network to see what of it can leave: --model resnet56"
        )
    x = structure.example(shape, find.some_task(task, data, model))
    if x is None:
        raise ResproutError(
            "give the shape of an input of the network, as in --input 3x32x32, or --task with its --data"
        )
    network = find.network(model, weights)
    structure.show(network, trace(network, x, layers=True))


def _ours(archive: encoding.Archive, lengths: dict[str, int], size: int) -> None:
    page = console()
    for key, value in sorted(archive.metadata.items()):
        if key != "shape":  # `structure.left` says it in words
            page.print(f"{key}: {value}", markup=False)
    page.print("every checksum sound")
    packed = {n: encoding.pack(s) for n, s in archive.weights.items()}  # our writer's streams, which are these
    table = columns("weight", "shape", "alive", "sparsity", "bits/gap", "bound", "places", "values", "scales")
    for name, weight in archive.weights.items():
        places, values, scales = packed[name].places.size, packed[name].values.size, packed[name].scales
        bits = [f"{8 * b / max(weight.alive, 1):.2f}" for b in (places, weight.entropy)]
        counts = [f"{b:,}" for b in (places, values, scales.size if scales else 0)]
        sparsity = f"{100 * (1 - weight.alive / max(weight.size, 1)):.2f} %"
        table.add_row(name, _by(weight.shape), f"{weight.alive:,}", sparsity, *bits, *counts)
    page.print(table)
    total, alive = sum(w.size for w in archive.weights.values()), sum(w.alive for w in archive.weights.values())
    streams = sum(p.size for p in packed.values())
    page.print(f"{alive:,} weights alive of {total:,} ({100 * (1 - alive / max(total, 1)):.2f} % sparse)")
    page.print(
        f"weights {streams:,} bytes, rest (biases, norms, statistics) {lengths['rest']:,}, index {lengths['index']:,}, "
        f"header and checksums {size - streams - lengths['rest'] - lengths['index']:,}"
    )
    width = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[archive.values]
    bound = sum(w.entropy for w in archive.weights.values()) + alive * width / 8
    dense = 4 * (total + sum(t.numel() for t in archive.rest.values()))
    page.print(
        f"entropy of the places and {width} bits a weight: {bound:,.0f} bytes; the file is {size / max(bound, 1):.3f} times "
        f"that, and {dense / size:.1f} times smaller than its tensors in dense float32"
    )
    if archive.program is not None:
        _program(archive, archive.program)


def _program(archive: encoding.Archive, program: Program) -> None:
    """What the network computes, and how many multiply-adds are left of it."""
    page, macs = console(), program.macs()
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(op.name for op in program.ops).items())
    uses = [(archive.ties.get(n, n), m) for n, m in macs.items()]
    counts = {n: (t.numel(), t.numel()) for n, t in archive.rest.items()}
    counts |= {n: (s.size, s.alive) for n, s in archive.weights.items()}
    dense, sparse = (sum(m * counts[n][i] for n, m in uses) for i in (0, 1))
    page.print(f"program: {_by(program.input)} -> {_by(program.output)}, {len(program.ops)} operations: {kinds}")
    page.print(
        f"multiply-adds per sample: {dense:,} dense, {sparse:,} of weights alive; {len(archive.folds)} norms folded"
    )


def _any(meta: dict[str, str], tensors: dict[str, Tensor]) -> None:
    page = console()
    page.print("a plain safetensors file, not in our sparse format")
    for key, value in meta.items():
        page.print(f"{key}: {value}", markup=False)
    table = columns("tensor", "shape", "type", "nonzero", "sparsity")
    for name, t in tensors.items():
        alive = int(torch.count_nonzero(t))
        sparsity = f"{100 * (1 - alive / max(t.numel(), 1)):.2f} %"
        table.add_row(name, _by(tuple(t.shape)), str(t.dtype).removeprefix("torch."), f"{alive:,}", sparsity)
    page.print(table)
    page.print(f"{len(tensors)} tensors, {sum(math.prod(t.shape) for t in tensors.values()):,} numbers")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
