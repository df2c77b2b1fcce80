"""Structure on the command line: an example input for the tracer, and what it found, in words."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.granularity import Units, parse
from ..core.probe import first_tensor
from ..core.task import Task
from ..core.units import Group
from ..graph.shape import Shape
from ..graph.structure import Structure
from ..graph.trace import trace
from .flags import columns, console

Input = Annotated[
    str | None,
    typer.Option("--input", help="Shape of one input, as in 3x32x32, to find what is coupled; default the task's."),
]


def example(shape: str | None, task: Task | None) -> Tensor | None:
    """Return one input: random numbers of a shape such as "3x32x32", or the first of the task's; None without both.

    Raises:
        ResproutError: a shape that cannot be read.
    """
    if shape is None:
        return None if task is None else first_tensor(next(iter(task.batches("train"))))[:1]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise ResproutError(
            f"cannot read --input {shape!r}; write the shape of one input without the batch, as in 3x32x32"
        )
    sizes = [int(n) for n in shape.split("x")]
    return torch.randn(1, *sizes, generator=torch.Generator().manual_seed(0))


def needed(
    model: nn.Module, granularity: str, shrink: bool, shape: str | None, task: Task | None
) -> tuple[Structure, Tensor] | None:
    """Return what of `model` is coupled, and the input that it was traced with; None where that does not matter.

    Raises:
        ResproutError: it does, and there is no input.
    """
    units, x = parse(granularity), example(shape, task)
    if not shrink and not isinstance(units, Units):
        return None
    if x is None:
        what = "--shrink" if shrink else f"--granularity {granularity}"
        raise ResproutError(
            f"{what} needs an input of the network, to find which channels hang together: give its shape, as in --input 3x32x32, "
            "or --task with its --data"
        )
    return trace(model, x, layers=isinstance(units, Units) and units.kind == "layer"), x


def show(model: nn.Module, structure: Structure) -> None:
    """Print the groups, and what is kept dense and why."""
    page = console()
    table = columns("group", "kind", "units", "made by", "read by")
    for column in table.columns[3:]:
        column.justify = "left"
    for group in structure.groups:
        made, read = places(model, group)
        table.add_row(group.name, group.kind, f"{len(group):,}", _some(made), _some(read))
    page.print(table)
    kinds = Counter(g.kind for g in structure.groups)
    layers = kinds.pop("layer", 0)
    said = [*(f"{n} groups of {kind}s" for kind, n in kinds.items()), *([f"{layers} whole layers"] if layers else [])]
    page.print(f"{', '.join(said) or 'nothing'} can leave", markup=False)
    for what, kept in (
        ("kept dense", structure.kept_dense),
        ("branches that stay", structure.kept_layers),
    ):
        reasons: dict[str, list[str]] = {}
        for name, why in kept.items():
            reasons.setdefault(why, []).append(name)
        if kept:
            page.print(f"{what}: {len(kept)}", markup=False)
        for why, names in reasons.items():
            page.print(f"  {why}: {_some(names)}", markup=False)


def places(model: nn.Module, group: Group) -> tuple[list[str], list[str]]:
    """Return the modules (or parameters) that make a group's units, and those that read them."""
    modules = dict(model.named_modules())
    found: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for slot in group.slots:
        path, _, leaf = slot.parameter.rpartition(".")
        own = path in modules and leaf in ("weight", "bias", "running_mean", "running_var")
        place, many = path if own else slot.parameter, slot.repeat > 1 and group.kind != "layer"
        found[slot.reads].setdefault(place, f"{place} x{slot.repeat}" if many else place)
    return list(found[False].values()), list(found[True].values())


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def left(shape: Shape, model: nn.Module | None = None) -> None:
    """Print what is still present in a network that has been shrunk; with its dense `model`, of how many."""
    page = console()
    sizes = {} if model is None else {n: tuple(t.shape) for n, t in model.state_dict().items()}
    table = columns("smaller weight", "outputs left", "inputs left")
    for name, kept in shape.kept.items():
        of = {d: f" of {sizes[name][int(d)]:,}" for d in kept if name in sizes}
        if name.endswith("weight") and (name not in sizes or len(sizes[name]) > 1):
            table.add_row(name, *(f"{len(kept[d]):,}{of.get(d, '')}" if d in kept else "" for d in "01"))
    page.print("a smaller network: rs.load reads it into its dense model, which becomes as small", markup=False)
    page.print(table)
    if shape.norms:
        page.print(f"norms that go on counting the channels that left: {_some(shape.norms)}", markup=False)
    if shape.skipped:
        page.print(f"layers that left: {_some(list(shape.skipped))}", markup=False)
