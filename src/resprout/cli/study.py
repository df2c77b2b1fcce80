"""`resprout study`: a published question, asked again here."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import find
from ..core import store
from ..core.store import configuration
from ..studies._study import Study
from .flags import columns, console, plain_errors


@plain_errors
def study(
    name: Annotated[
        str, typer.Argument(help='As in `resprout list --kind study`, or "pie(seeds=5)" (`resprout show pie`).')
    ],
    out: Annotated[Path, typer.Option(help="Folder of the studies.")] = Path("studies"),
) -> None:
    """Run a study and print its verdict; started again, it goes on where it was stopped."""
    chosen = find.method("study", name)
    assert isinstance(chosen, Study)
    page, began = console(), time.monotonic()
    stem = type(chosen).__module__.rpartition(".")[2]
    folder = out / stem
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(32), TimeElapsedColumn(), TimeRemainingColumn(), console=page,
        transient=True, disable=not page.is_terminal,
    )  # fmt: skip
    spent = folder / f"spent-{hashlib.sha256(configuration(chosen).encode()).hexdigest()[:10]}.json"  # over all starts
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    try:
        with bar:
            task = bar.add_task(stem, total=1.0)
            found = chosen(folder, lambda what, share: bar.update(task, description=what, completed=share))
    except KeyboardInterrupt:
        page.print("\nstopped; the same command goes on where this one was", markup=False)
        raise typer.Exit(130) from None
    finally:
        seconds = round(before + time.monotonic() - began, 1)
        store.write(spent, json.dumps(seconds).encode())
    facts: dict[str, Any] = {"name": stem, "claim": chosen.claim, "configuration": configuration(chosen)}
    facts |= {"command": shlex.join(["resprout", *sys.argv[1:]]), "seconds": seconds}
    found.write(folder / "finding.json", **facts)
    for title, rows in found.tables.items():
        if rows:
            table = columns(*map(str, rows[0]))
            for row in rows[:30]:
                table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
            page.print(f"\n[bold]{title}[/]" + (f" (the first 30 of {len(rows)} rows)" if len(rows) > 30 else ""))
            page.print(table)
    page.print(f"\nclaimed: {chosen.claim}", markup=False)
    said = {True: "holds here", False: "does not hold here", None: "not decided here"}[found.holds]
    page.print(f"{said}: {found.verdict}", markup=False, style="bold")
    page.print(f"wrote {folder / 'finding.json'}", markup=False)
