"""`resprout compare`: methods side by side under the same training budget."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..compare import Comparison
from ..compare import compare as library_compare
from ..core.errors import ResproutError
from ..find import HUB
from ..report.page import write_page
from .fit import USUAL
from .flags import columns, console, like, plain_errors

TAKEN = ("seeds", "baseline", "granularity", "values", "precision", "engine", "jobs", "threads")
SEVERAL = ("--sparsity", "--budget", "--controls")


@plain_errors
@like(library_compare, *TAKEN)
def compare(
    *,
    arms: Annotated[
        list[str],
        typer.Argument(
            help='Recipes ("one_way", "one_way(lr=0.05)"), scores or allocations (one_way with it), rules (sparse_training '
            'with it), controls ("scratch(one_way)").'
        ),
    ],
    sparsity: Annotated[list[float] | None, typer.Option(help="Fractions that are zero, one or several.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help='Further budgets: "16KiB" "5M macs".')] = None,
    task: Annotated[str, typer.Option(help="Task: digits, cifar10, or FILE.py:FUNCTION.")] = "digits",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None,
    model: Annotated[str, typer.Option(help="Network, by name, or FILE.py:FUNCTION.")] = "digits_cnn",
    weights: Annotated[Path | None, typer.Option(help="safetensors with its trained weights.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Training of every arm; default 8 (digits: 40).")] = None,
    dense_epochs: Annotated[
        float | None,
        typer.Option(help="Training of the dense network; default 0 with --weights or hf:FOLDER, 20 without."),
    ] = None,
    controls: Annotated[
        list[str] | None, typer.Option(help="scratch, scratch_compute, shuffled, small, or all: of every recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default comparisons/TASK-MODEL.")] = None,
    **given: Any,
) -> None:
    """Run every arm at every budget with every seed, each for the same number of steps, and tell who wins."""
    page, usual = console(), USUAL.get(task, {})
    epochs = usual.get("epochs", 8.0) if epochs is None else epochs
    dense_epochs = (
        (0.0 if weights or model.startswith(HUB) else usual.get("dense_epochs", 20.0))
        if dense_epochs is None
        else dense_epochs
    )
    command = shlex.join(["resprout", *sys.argv[1:]])
    try:
        with Cells(page) as cells:
            done = library_compare(
                arms, sparsity=sparsity or (), budget=budget or (), task=task, data=data, model=model, weights=weights,
                epochs=epochs, dense_epochs=dense_epochs, controls=controls or (), out=out, command=command, report=cells,
                **given,
            )  # fmt: skip
    except KeyboardInterrupt:
        page.print("\nstopped; the same command goes on where this one was", markup=False)
        raise typer.Exit(130) from None
    summary(page, done)
    if done.failed:
        raise typer.Exit(1)


class Cells:
    """Cells done, and those under way, as bars that move."""

    def __init__(self, page: Console):
        self.page, self._done, self._told = page, -1, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(32),
            TextColumn("{task.completed}/{task.total} cells"),
            TimeElapsedColumn(),
            console=page,
            transient=True,
            disable=not page.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Cells:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, facts: dict[str, Any]) -> None:
        """Take one report of the engine."""
        now = "; ".join(f"{title}: {steps:,} steps, {seconds:.0f} s" for title, steps, seconds in facts["running"])
        self._bar.update(self._task, completed=facts["done"], total=facts["total"], description=now)
        if not self.page.is_terminal and (facts["done"] != self._done or time.monotonic() - self._told > 60):
            self.page.print(f"{facts['done']}/{facts['total']} cells {now}", markup=False)
            self._done, self._told = facts["done"], time.monotonic()


def summary(page: Console, done: Comparison) -> None:
    """Print a line for every arm and budget, and what was written."""
    table = columns(
        "arm", "asked", "test %", "validation %", "bytes", "steps", "seconds", f"against {done.baseline}", ""
    )
    table.columns[-1].justify = "left"
    for line in done.lines:
        test, seen = (
            f"{100 * m:.2f} ± {100 * s:.2f}" if s == s else f"{100 * m:.2f}" for m, s in (line.test, line.validation)
        )
        steps = f"{line.steps[1]:,}" + (f" + {line.searched:,} searched" if line.searched else "")
        words = "" if line.against is None else f"{line.against}"
        verdict = "" if line.against is None else line.against.verdict
        table.add_row(
            line.arm, line.asked, test, seen, f"{line.bytes:,.0f}", steps, f"{line.seconds:.0f}", words,
            f"{verdict}{'; ' if verdict and line.note else ''}{line.note}",
            style="bold green" if verdict == "win" else "",
        )  # fmt: skip
    page.print(table)
    page.print(
        "\ndifferences in points with a 95 % bootstrap interval over seeds (of one seed: over test images)",
        markup=False,
    )
    for title, why in done.failed.items():
        page.print(f"failed: {title}: {why}", markup=False, style="red")
    for file in ("table.parquet", "table.csv"):
        if (done.folder / file).exists():
            page.print(f"wrote {done.folder / file}", markup=False)
    try:
        page.print(f"wrote {write_page(done.folder)}", markup=False)
    except ResproutError as error:  # the numbers are there, and the page can be had later: resprout report FOLDER
        page.print(f"no page: {error}", markup=False, style="yellow")


def spread_out(words: list[str]) -> list[str]:
    """Return `--sparsity .9 .95` as `--sparsity .9 --sparsity .95`: a flag of several values takes all up to the next flag."""
    found: list[str] = []
    flag, taken = "", 0
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "", 1).isdigit():
            flag, taken = (word if word in SEVERAL else ""), 0
            found.append(word)
            continue
        if flag and taken:
            found.append(flag)
        taken += 1
        found.append(word)
    return found
