"""`resprout prune` and `resprout regrow`: one step on a network in a file, without training."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from .. import api, find
from ..core.errors import CheckpointError, ResproutError, TraceError, check_sparsity, nearest
from ..core.granularity import parse
from ..core.masks import Masks
from ..core.store import read_safetensors
from ..core.task import Task
from ..deploy import encoding
from ..deploy.encoding import VALUES
from ..deploy.file import save
from ..deploy.gain import gain
from ..graph import shrink as graph
from ..graph.shape import shape_of
from ..graph.structure import Structure
from . import structure
from .flags import console, like, plain_errors

Model = Annotated[str, typer.Option(help="Network, by the name of its function in resprout.models.")]
TaskName = Annotated[str | None, typer.Option("--task", help="Task, for scores that look at data.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the task's data.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
Values = Annotated[str, typer.Option(help="Type of the values in the file: fp32, fp16, int8 or int4.")]
BATCHES = 8


@plain_errors
@like(api.prune, "sparsity", "score", "allocate", "granularity", "floor", "ceiling", "targets", "ignore", "seed",
      required=["sparsity"])  # fmt: skip
def prune(
    *,
    model: Model = "digits_cnn",
    weights: Annotated[Path | None, typer.Option(help="safetensors with its weights; default random ones.")] = None,
    task: TaskName = None,
    data: Data = None,
    out: Out = Path("pruned.safetensors"),
    values: Values = "fp16",
    shape: structure.Input = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Save a smaller network, and say what it gains.")] = False,
    round_to: Annotated[int, typer.Option(help="With --shrink: keep widths at multiples of this.", min=1)] = 1,
    **given: Any,
) -> None:
    """Zero the weights that are worth least, and save what is left; with --shrink, dead channels and heads leave."""
    check_sparsity(given["sparsity"], "--sparsity")
    _check_values(values)
    given = find.methods(given) | {"targets": given["targets"] or None, "ignore": given["ignore"] or ()}
    network = find.network(model, weights, given["seed"])
    if shape_of(network) is not None:
        raise ResproutError(f"{weights} holds a network that has been shrunk already; prune its dense one")
    known = find.some_task(task, data, model)
    found = structure.needed(network, given["granularity"], shrink, shape, known)
    masks = api.prune(network, **given, **_batches(known, given["seed"]), example=found and found[0])
    _units(masks, given["granularity"], found)
    if not shrink or found is None:
        _finish(network, masks, known, out, values)
        return
    small = graph.shrink(network, masks, structure=found[0], round_to=round_to)
    _finish(small, Masks.of(small), known, out, values, found[1])
    console().print(str(gain(network, small, found[1])), markup=False)


@plain_errors
@like(
    api.regrow,
    "sparsity",
    "score",
    "allocate",
    "fill",
    "granularity",
    "floor",
    "ceiling",
    "seed",
    "rounds",
    required=["sparsity"],
)
def regrow(
    *,
    weights: Annotated[
        Path, typer.Option(help="The sparse network: a file of `resprout prune` or fit, or a state_dict.")
    ],
    model: Model = "digits_cnn",
    anchor: Annotated[Path | None, typer.Option(help="safetensors with the dense network's weights.")] = None,
    task: TaskName = None,
    data: Data = None,
    out: Out = Path("regrown.safetensors"),
    values: Values = "fp16",
    shape: structure.Input = None,
    **given: Any,
) -> None:
    """Bring back the dead weights that are worth most, and save the network."""
    check_sparsity(given["sparsity"], "--sparsity")
    _check_values(values)
    given = find.methods(given)
    network = _whole(find.network(model, weights, given["seed"]), model)
    dense = None if anchor is None else find.network(model, anchor)
    _unfolded(weights, anchor)
    known = find.some_task(task, data, model)
    found = structure.needed(network, given["granularity"], False, shape, known)
    batches = _batches(known, given["seed"])
    masks = api.regrow(network, Masks.of(network), **given, anchor=dense, **batches, example=found and found[0])
    _units(masks, given["granularity"], found)
    _finish(network, masks, known, out, values)


def _check_values(values: str) -> None:
    if values not in VALUES:
        raise nearest(values, VALUES, "--values")


def _batches(task: Task | None, seed: int) -> dict[str, Any]:
    if task is None:
        return {}
    return {"data": list(islice(task.batches("train", seed=seed), BATCHES)), "loss": task.loss}


def _whole(network: nn.Module, name: str) -> nn.Module:
    """A network that had been shrunk in its dense form again, with zeros where channels had left."""
    if shape_of(network) is None:
        return network
    whole = find.network(name, None)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    return graph.expand(network, like=whole)


def _unfolded(weights: Path, anchor: Path | None) -> None:
    """Refuse to mix weights that norms have been folded into with those of an anchor, in which they stand beside."""
    meta, _ = read_safetensors(weights)
    if anchor is not None and meta.get("format") == encoding.FORMAT and encoding.read(weights).folds:
        raise ResproutError(
            f"{weights} has its norms folded into the weights, for it holds a program, and --anchor has not: leave --anchor out, "
            "or regrow a file without a program, as `resprout prune` without --shrink writes"
        )


def _units(masks: Masks, granularity: str, found: tuple[Structure, Tensor] | None) -> None:
    """How many units live, where they are not weights."""
    units = parse(granularity)
    if units.noun != "weights":
        alive = units.units(masks, found[0].groups if found else ())
        console().print(f"{alive.alive:,} of {alive.total:,} {units.noun} alive")


def _finish(
    network: nn.Module, masks: Masks, task: Task | None, out: Path, values: str, example: Tensor | None = None
) -> None:
    if out.is_dir():
        raise CheckpointError(f"--out {out} is a folder; name a file in it")
    # In the layout of a file without targets, so that it is read without knowing them: what was ignored is dense there.
    whole, page = Masks({n: masks.get(n, m) for n, m in Masks.dense(network).items()}), console()
    try:
        size = save(out, network, whole, values=values, example=example)
    except TraceError as error:
        size = save(out, network, whole, values=values)
        page.print(f"note: the file holds no program, only weights: {error}", markup=False)
    page.print(f"{masks.alive:,} of {masks.total:,} weights alive, sparsity {100 * masks.sparsity:.4g} %")
    if task is not None:
        network.eval()
        metric = task.evaluate(network, "validation")[task.metric]
        page.print(f"validation {task.metric} {100 * metric:.2f} % (before any recovery)")
    page.print(f"wrote {out} ({size:,} bytes)", markup=False)
