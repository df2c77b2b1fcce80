"""From rows to one tidy table, its summary, and who wins."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import store
from ..core.errors import ResproutError
from ..evaluate.outputs import Outputs
from .cell import Cell
from .statistics import Difference, paired, spread

COLUMNS: tuple[str, ...] = (
    "arm", "kind", "of", "asked", "seed", "sparsity", "alive", "bytes", "validation", "test", "test_loss", "calibration_error",
    "steps", "searched", "times", "seconds", "threads", "precision", "selected_on", "machine", "torch", "note", "cell",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One arm at one budget, over all seeds.

    Attributes:
        arm, asked, kind: which.
        seeds: how many have finished.
        test, validation: (mean, standard deviation) of accuracies in [0, 1].
        sparsity, bytes: means.
        steps: (fewest, most) optimizer steps of a seed; `searched` those spent on candidates besides.
        seconds: mean wall time of a cell.
        against: the paired difference to the baseline in points (percent), or None for the baseline itself.
        note: what is unequal.
    """

    arm: str
    asked: str
    kind: str
    seeds: int
    test: tuple[float, float]
    validation: tuple[float, float]
    sparsity: float
    bytes: float
    steps: tuple[int, int]
    searched: int
    seconds: float
    against: Difference | None
    note: str


def tidy(cells: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """Return a row for every cell that has finished, under the label that it was asked for with."""
    rows = []
    for cell in cells:
        if (row := cell.row(root)) is not None:
            named = row | {"arm": cell.arm.label if cell.arm else "dense", "asked": cell.budget, "cell": cell.key}
            if cell.arm is not None and cell.arm.of is not None:
                named["of"] = cell.arm.of.label
            rows.append({name: named.get(name) for name in COLUMNS})
    return rows


def write(rows: Sequence[dict[str, Any]], root: Path) -> list[Path]:
    """Write `table.csv`, and `table.parquet` where pyarrow is installed; return what was written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    store.write(root / "table.csv", text.getvalue().encode())
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return [root / "table.csv"]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    store.write(root / "table.parquet", sink.getvalue().to_pybytes())
    return [root / "table.parquet", root / "table.csv"]


def summary(cells: Sequence[Cell], root: Path, baseline: str) -> list[Line]:
    """Return a line for every arm and budget, in the order of `cells`.

    Raises:
        ResproutError: no arm is called `baseline`.
    """
    done = [(cell, row) for cell in cells if (row := cell.row(root)) is not None]
    arms = dict.fromkeys(cell.arm.label for cell in cells if cell.arm)
    if baseline not in arms:
        raise ResproutError(f"baseline {baseline!r} is none of the arms: {', '.join(arms)}")
    lines = []
    for asked, arm in dict.fromkeys((cell.budget, cell.arm.label) for cell in cells if cell.arm):
        mine = {c.seed: (c, r) for c, r in done if c.budget == asked and c.arm and c.arm.label == arm}
        if not mine:
            continue
        theirs = {c.seed: (c, r) for c, r in done if c.budget == asked and c.arm and c.arm.label == baseline}
        rows = [r for _, r in mine.values()]
        steps = [r["steps"] for r in rows]
        notes = {str(r["note"]) for r in rows[:1] if r.get("note")}
        usual = max([r["steps"] for _, r in theirs.values()] or steps)
        if rows[0]["kind"] == "control":  # it starts before the dense network was trained
            usual += max((r["steps"] for c, r in done if c.arm is None), default=0)
        if rows[0].get("times", 1.0) == 1.0 and not 0.99 * usual <= min(steps) <= max(steps) <= 1.01 * usual:
            notes.add(f"other training: {max(steps) / usual:.2f} times the steps")
        if any(r.get("selected_on") == "test" for r in rows):
            notes.add("chosen on TEST data")
        lines.append(
            Line(
                arm, asked, rows[0]["kind"], len(rows),
                spread([r["test"] for r in rows]), spread([r["validation"] for r in rows]),
                float(np.mean([r["sparsity"] for r in rows])), float(np.mean([r["bytes"] for r in rows])),
                (min(steps), max(steps)), round(float(np.mean([r["searched"] for r in rows]))),
                float(np.mean([r["seconds"] for r in rows])),
                None if arm == baseline else against(mine, theirs, root), "; ".join(sorted(notes)),
            )
        )  # fmt: skip
    return lines


def against(
    mine: dict[int, tuple[Cell, dict[str, Any]]], theirs: dict[int, tuple[Cell, dict[str, Any]]], root: Path
) -> Difference | None:
    """Return the difference in points over the seeds that both have: the test set stands, the seeds are chance.

    With one seed in common it is the test samples that are resampled, which says nothing of other seeds.
    """
    common = sorted(set(mine) & set(theirs))
    if len(common) > 1:
        return paired(*([100 * side[s][1]["test"] for s in common] for side in (mine, theirs)))
    files = [side[common[0]][0].folder(root) / "outputs.safetensors" for side in (mine, theirs)] if common else []
    if not files or not all(f.exists() for f in files):
        return None
    ours, others = (Outputs.read(f).right.double().numpy()[None] * 100 for f in files)
    return paired(ours, others) if ours.shape == others.shape else None
