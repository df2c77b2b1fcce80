"""`resprout prune` and `resprout regrow`: one step on a network in a file, without training."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from .. import api
from ..core.errors import CheckpointError, ResproutError, check_sparsity, nearest
from ..core.masks import Masks
from ..core.task import Task
from ..deploy.encoding import VALUES
from ..deploy.file import save
from . import find
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
    **given: Any,
) -> None:
    """Zero the weights that are worth least, and save what is left."""
    check_sparsity(given["sparsity"], "--sparsity")
    _check_values(values)
    given = find.methods(given) | {"targets": given["targets"] or None, "ignore": given["ignore"] or ()}
    network = find.network(model, weights, given["seed"])
    known = _task(task, data, model)
    masks = api.prune(network, **given, **_batches(known, given["seed"]))
    _finish(network, masks, known, out, values)


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
    **given: Any,
) -> None:
    """Bring back the dead weights that are worth most, and save the network."""
    check_sparsity(given["sparsity"], "--sparsity")
    _check_values(values)
    given = find.methods(given)
    network = find.network(model, weights, given["seed"])
    dense = None if anchor is None else find.network(model, anchor)
    known = _task(task, data, model)
    masks = api.regrow(network, Masks.of(network), **given, anchor=dense, **_batches(known, given["seed"]))
    _finish(network, masks, known, out, values)


def _check_values(values: str) -> None:
    if values not in VALUES:
        raise nearest(values, VALUES, "--values")


def _task(name: str | None, data: Path | None, model: str) -> Task | None:
    if name is None and data is not None:
        raise ResproutError("--data is the folder of a task's data: name the task with --task")
    return None if name is None else find.task(name, data, model)


def _batches(task: Task | None, seed: int) -> dict[str, Any]:
    if task is None:
        return {}
    return {"data": list(islice(task.batches("train", seed=seed), BATCHES)), "loss": task.loss}


def _finish(network: nn.Module, masks: Masks, task: Task | None, out: Path, values: str) -> None:
    if out.is_dir():
        raise CheckpointError(f"--out {out} is a folder; name a file in it")
    # In the layout of a file without targets, so that it is read without knowing them: what was ignored is dense there.
    whole = Masks({n: masks.get(n, m) for n, m in Masks.dense(network).items()})
    size, page = save(out, network, whole, values=values), console()
    page.print(f"{masks.alive:,} of {masks.total:,} weights alive, sparsity {100 * masks.sparsity:.4g} %")
    if task is not None:
        network.eval()
        metric = task.evaluate(network, "validation")[task.metric]
        page.print(f"validation {task.metric} {100 * metric:.2f} % (before any recovery)")
    page.print(f"wrote {out} ({size:,} bytes)", markup=False)
