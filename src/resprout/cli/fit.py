"""`resprout fit`: the whole journey, from a network to one or several budgets."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.table import Table

from .. import find
from ..core.budget import Budget
from ..core.errors import BudgetError, ResproutError
from ..core.masks import Masks
from ..fit import Arrival, Result
from ..fit import fit as library_fit
from ..report import audited
from .flags import columns, console, like, plain_errors
from .journey import Journey

USUAL = {"digits": {"epochs": 40.0, "dense_epochs": 20.0}}  # where small data make short epochs
SMALL = 200_000  # weights under which a second thread costs more than it brings
TAKEN = (
    "device",
    "table",
    "values",
    "recipe",
    "granularity",
    "targets",
    "ignore",
    "epochs",
    "dense_epochs",
    "control",
    "curve",
    "seed",
    "out",
    "precision",
)


NOTES = {
    "device": "Device whose flash and RAM are limits, by its name in `resprout list devices`.",
    "epochs": "Training of the recipe in epochs; default its own (digits: 40).",
    "dense_epochs": "Train the dense network first; default 0 with --weights or hf:FOLDER, 20 without.",
    "out": "Folder of the run folders.",
}


@plain_errors
@like(library_fit, *TAKEN, unset=["dense_epochs"], notes=NOTES)
def fit(
    *,
    model: Annotated[
        str, typer.Option(help="Network, by the name of its function in resprout.models, or hf:FOLDER.")
    ] = "digits_cnn",
    weights: Annotated[Path | None, typer.Option(help="safetensors with its trained weights.")] = None,
    task: Annotated[str, typer.Option(help="Task: digits, cifar10, text, sst2.")] = "digits",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help='"8KiB", "12k nonzero", "5M macs", "256KiB flash", "96KiB ram", "1.5ms", a sparsity such as 0.98, or '
            'limits of several kinds with commas: "256KiB flash, 4ms".'
        ),
    ] = None,
    frontier: Annotated[
        str | None, typer.Option(help='Several budgets in one walk: "16KiB,32KiB", or "16KiB, 1ms; 32KiB, 2ms".')
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of PyTorch; default all, and 1 for small networks.", min=1)
    ] = None,
    audit: Annotated[
        str,
        typer.Option(
            help='Also ask in the end: "robustness,privacy,subgroups,calibration" (`resprout list --kind audit`).'
        ),
    ] = "",
    **given: Any,
) -> None:
    """Cut a network past its cliff and regrow it to a budget; resumes where it was stopped."""
    wanted = budgets(budget, frontier, given["device"])
    questions = find.several("audit", audit)
    if given["recipe"] is not None:
        given["recipe"] = find.method("recipe", given["recipe"])
    given |= {"targets": given["targets"] or None, "ignore": given["ignore"] or ()}
    given = usual(task, weights is not None or model.startswith(find.HUB), given)
    with processes() as rank:
        page = console()
        network = find.network(model, weights, given["seed"]).to(device())
        if threads is not None or Masks.dense(network).total < SMALL:
            torch.set_num_threads(threads or 1)
        known = find.task(task, data, model)
        if rank == 0:
            count = sum(p.numel() for p in network.parameters())
            where = f" on {given['device']}" if given["device"] else ""
            asked = "; ".join(map(str, wanted)) if wanted else f"what {given['device']} has"
            page.print(f"[bold]{model}[/] ({count:,} parameters) on {task}, to {asked}{where if wanted else ''}")
        try:
            with Journey(page, rank != 0) as journey:
                result = library_fit(network, known, wanted, audit=questions, report=journey, **given)
        except KeyboardInterrupt:
            if rank == 0:
                page.print(
                    f"\nstopped; the same command goes on from the last checkpoint in {given['out']}", markup=False
                )
            raise typer.Exit(130) from None
        if rank == 0:
            if journey.rows == 0:  # the run had ended before: tell it again
                for record in result.journal:
                    journey("step", record | {"resumed": True})
            summary(page, result)


def usual(task: str, trained: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Fill in the epochs that were not given: those usual for the task; a trained network gets no dense training."""
    known = USUAL.get(task, {}) | ({"dense_epochs": 0.0} if trained else {})
    dense = known.get("dense_epochs", 20.0) if given["dense_epochs"] is None else given["dense_epochs"]
    epochs = known.get("epochs") if given["epochs"] is None else given["epochs"]
    return given | {"dense_epochs": dense, "epochs": epochs}


def budgets(budget: str | None, frontier: str | None, device: str | None = None) -> list[Budget] | None:
    """Return what is asked for: by default the demo's 8KiB, or None for all that a device has.

    Raises:
        BudgetError: both are given, or one cannot be read.
    """
    if budget is not None and frontier is not None:
        raise BudgetError("give --budget or --frontier, not both")
    if frontier is not None:
        return Budget.several(frontier)
    if budget is None:
        return [Budget.parse("8KiB")] if device is None else None
    return [Budget.parse(budget)]


def device() -> torch.device:
    """Return where to run: this rank's GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextlib.contextmanager
def processes() -> Iterator[int]:
    """Join the process group that `torchrun` speaks of in the environment, if any, and give this rank."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    warnings.filterwarnings("ignore", "Grad strides do not match")  # channels_last under DDP: only slower
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def summary(page: Console, result: Result) -> None:
    """Print test accuracies, asked and achieved budgets, and the paths of what was written."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "asked", "achieved", "weights alive", "sparsity", "file", "validation", "test"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)

    def row(label: str, a: Arrival, style: str = "") -> None:
        limits = list(a.achieved.items()) or [("", "")]
        cells = (f"{a.alive:,}", f"{100 * a.sparsity:.2f} %", f"{a.bytes:,} B", f"{100 * a.validation:.2f} %")
        table.add_row(label, *limits[0], *cells, f"{100 * a.test:.2f} %", style=style)
        for limit in limits[1:]:
            table.add_row("", *limit, style=style)

    row("dense", result.dense)
    for arrival in result.control:
        row(f"one-way ({arrival.recipe})" if arrival.recipe != "one_way" else "one-way", arrival)
    for arrival in result.frontier:
        row("resprout", arrival, "bold green")
    page.print()
    page.print(table)
    page.print()
    audits(page, result)
    if result.cliff is not None:
        stump = f", stump at {100 * result.stump:.2f} %" if result.stump is not None else ""
        page.print(f"cliff at {100 * result.cliff:.2f} % sparsity{stump}")
    for note in result.notes:
        page.print(f"note: {note}", markup=False)
    if result.selected_on == "test":
        page.print("choices were made on TEST data (paper_protocol): these accuracies are no estimate for unseen data")
    for arrival in result.frontier:
        if arrival.file:
            page.print(f"wrote {_path(result, arrival.file)}", markup=False)
        if arrival.pretrained:
            page.print(f"wrote {_path(result, arrival.pretrained)}/, for from_pretrained", markup=False)
    if result.folder is not None:
        page.print(f"wrote {Path(result.folder) / 'result.json'}", markup=False)
        try:
            for path in result.report().values():
                page.print(f"wrote {path}", markup=False)
        except ResproutError as error:  # the picture is an extra; the result stands without it
            page.print(f"no picture: {error}", markup=False)


def audits(page: Console, result: Result) -> None:
    """Print what the audits found, a column for each network."""
    for title, columns_, rows in audited.tables(result):
        table = columns(*columns_)
        for row in rows:
            table.add_row(*row)
        page.print(f"[bold]{title}[/]")
        page.print(table)
        page.print()


def _path(result: Result, file: str) -> Path:
    path = Path(file)
    return path if path.is_absolute() or path.exists() else Path(result.folder or ".") / path
