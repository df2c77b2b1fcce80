"""A comparison as the page reads it: its finished cells by arm and budget, and what each of them has kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..compare.cell import Cell
from ..compare.compare import Comparison
from ..compare.statistics import Difference
from ..compare.table import Line
from ..core.errors import CheckpointError
from ..evaluate.outputs import Outputs

Row = dict[str, Any]
Found = list[tuple[Cell, Row]]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What has finished of a comparison.

    Attributes:
        comparison: as asked for.
        command: that repeats it; "" where it was called from Python.
    """

    comparison: Comparison
    command: str

    @classmethod
    def read(cls, folder: Path) -> Gathered:
        """Read a comparison's folder.

        Raises:
            CheckpointError: it holds none, or a damaged one, or no cell of it has finished.
        """
        comparison = Comparison.read(folder)
        command = json.loads((folder / "compare.json").read_text()).get("command", "")
        made = cls(comparison, str(command))
        if not made.rows:
            raise CheckpointError(f"{folder}: no cell of this comparison has finished; run it again, it goes on")
        return made

    @cached_property
    def rows(self) -> dict[Cell, Row]:
        """Every cell that has finished, and its row."""
        root = self.comparison.folder
        return {c: row for c in self.comparison.cells if (row := c.row(root)) is not None}

    @cached_property
    def lines(self) -> list[Line]:
        """The summary."""
        return self.comparison.lines

    @cached_property
    def metric(self) -> str:
        """What is measured, of which higher is better."""
        return str(next(iter(self.rows.values())).get("metric", "accuracy"))

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""
        return self.comparison.baseline

    @cached_property
    def recipes(self) -> list[str]:
        """Labels of the arms that are no controls, in order."""
        return list(dict.fromkeys(c.arm.label for c in self.comparison.cells if c.arm and not c.arm.control))

    @cached_property
    def controls(self) -> list[str]:
        """Labels of the arms that are, in order."""
        return list(dict.fromkeys(c.arm.label for c in self.comparison.cells if c.arm and c.arm.control))

    @cached_property
    def budgets(self) -> list[str]:
        """As asked for, in order."""
        return list(dict.fromkeys(c.budget for c in self.comparison.cells if c.arm))

    @cached_property
    def dense(self) -> Found:
        """The dense networks, one a seed."""
        return [(c, r) for c, r in self.rows.items() if c.arm is None]

    @cached_property
    def total(self) -> int:
        """Prunable weights of the dense network, 0 where none has finished."""
        return max((int(r["alive"]) for _, r in self.dense), default=0)

    @cached_property
    def _by(self) -> dict[tuple[str, str], Found]:
        found: dict[tuple[str, str], Found] = {}
        for cell, row in self.rows.items():
            if cell.arm:
                found.setdefault((cell.arm.label, cell.budget), []).append((cell, row))
        return found

    def of(self, arm: str, budget: str) -> Found:
        """The seeds of an arm at a budget that have finished."""
        return self._by.get((arm, budget), [])

    def detail(self, cell: Cell) -> dict[str, Any]:
        """What a cell has kept of its way; empty where it kept nothing, as controls do."""
        return self._json(cell, "detail.json")

    def losses(self, cell: Cell) -> Sequence[tuple[int, float]]:
        """(step, training loss) now and then."""
        known = self.detail(cell) or self._json(cell, "progress.json")
        return [(int(s), float(v)) for s, v in known.get("losses", [])]

    def _json(self, cell: Cell, name: str) -> dict[str, Any]:
        file = cell.folder(self.comparison.folder) / name
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged ({error}); delete its folder to run this cell again") from error

    def outputs(self, cell: Cell) -> Outputs | None:
        """What its network says of the test set, or None where it is no classifier."""
        file = cell.folder(self.comparison.folder) / "outputs.safetensors"
        return Outputs.read(file) if file.exists() else None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Weights of every tensor of the dense network, by name; the file's head is read, not its tensors."""
        for cell, row in self.dense:
            file = cell.folder(self.comparison.folder) / row["file"]
            try:
                with safe_open(str(file), "pt") as f:
                    shapes = {name: f.get_slice(name).get_shape() for name in f.keys()}  # noqa: SIM118
            except (SafetensorError, OSError):
                continue
            return {name: _product(shape) for name, shape in shapes.items()}
        return {}


def _product(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def plain(text: str) -> str:
    """Return text as plotly.js draws it literally: there, too, tags are tags."""
    return escape(text, quote=False)


def fraction(budget: str) -> float | None:
    """Return the sparsity that a budget asks for, or None where it asks for something else."""
    try:
        return float(budget)
    except ValueError:
        return None


def asked(budget: str) -> str:
    """Return a budget as people say it: "0.97" is "97 %"."""
    share = fraction(budget)
    return budget if share is None else f"{100 * share:g} %"


def percent(value: float, digits: int = 2) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * value:.{digits}f} %"


def signed(points: float, digits: int = 2) -> str:
    """Return a number with its sign, the minus as long as the plus."""
    return f"{points:+.{digits}f}".replace("-", "−")


def interval(gap: Difference) -> str:
    """Return a difference with its interval."""
    return f"{signed(gap.mean)} [{signed(gap.low)}, {signed(gap.high)}]"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names as one says them: "a, b and c"; of too many only how many."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
