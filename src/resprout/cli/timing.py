"""`resprout bench --table`: how long each layer of a network takes on this machine, for budgets of latency."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as Rows

from .. import find
from ..deploy import timing
from ..deploy.trace import lower
from .flags import console


def write_table(file: Path, model: str, task: str, data: Path | None, threads: int) -> None:
    """Measure each layer with the runtime at several sparsities, write the table to `file` and show it."""
    page, network = console(), find.network(model, None)
    traced = lower(network, next(iter(find.task(task, data, model).batches("train"))))
    made = timing.measure(traced.program, traced.tensors, threads)
    made.save(file)
    rows = Rows(box=None, pad_edge=False)
    for column in ("layer", *(f"{100 * (1 - d):g} % sparse" for d in timing.DENSITIES)):
        rows.add_column(column, justify="left" if column == "layer" else "right")
    for name, times in made.layers.items():
        rows.add_row(name, *(f"{took:.2f} us" for _, took in times))
    page.print(f"{made.machine}, threads: {threads}", markup=False)
    page.print(rows)
    page.print(f"besides {made.rest:.2f} us; wrote {file}", markup=False)
