"""Run cells side by side, each in its own process; finished ones are never run again, and one that fails stops no other.

What this file does not do: know what a cell computes (`run.py`), or other machines (`cluster.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .cell import Cell

Report = Callable[[dict[str, Any]], None]
LOOK_EVERY = 0.5  # seconds


class Engine(ABC):
    """Where cells run."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many cells may run at a time."""

    @abstractmethod
    def start(self, file: Path) -> Any:
        """Start the cell of `file` (its `cell.json`), and return a handle."""

    @abstractmethod
    def ended(self, handle: Any) -> str | None:
        """Return None while it runs, then "" or what went wrong."""

    @abstractmethod
    def stop(self, handle: Any) -> None:
        """Stop it; started again, it goes on."""


class Local(Engine):
    """Processes of this machine.

    Args:
        jobs: cells at a time; default one a core.
        threads: of each.
    """

    def __init__(self, jobs: int | None = None, threads: int = 1):
        self._jobs = jobs or max(1, (os.cpu_count() or 1) // threads)
        self._threads = threads

    @property
    def slots(self) -> int:
        """As many as jobs."""
        return self._jobs

    def start(self, file: Path) -> tuple[subprocess.Popen[bytes], Path]:
        """As a process of its own; what it prints goes to `log.txt` beside the cell."""
        own = {"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads), "RESPROUT_ENGINE": "1"}
        log = file.with_name("log.txt")
        with log.open("wb") as said:
            command = [sys.executable, "-m", "resprout.compare.run", str(file)]
            process = subprocess.Popen(
                command, env=os.environ | own, stdout=said, stderr=said, stdin=subprocess.DEVNULL
            )
        return process, log

    def ended(self, handle: tuple[subprocess.Popen[bytes], Path]) -> str | None:
        """By the exit code."""
        process, log = handle
        if process.poll() is None:
            return None
        if process.returncode == 0:
            return ""
        said = log.read_text(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        return f"{said[-1]} (all of it in {log})"

    def stop(self, handle: tuple[subprocess.Popen[bytes], Path]) -> None:
        """Ask it to end, and wait."""
        handle[0].terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle[0].wait(10)


def with_needs(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells and all that they need, each once, what is needed first."""
    found: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        for other in cell.needs:
            add(other)
        found.setdefault(cell.key, cell)

    for cell in cells:
        add(cell)
    return list(found.values())


def execute(cells: Sequence[Cell], root: Path, engine: Engine, report: Report | None = None) -> dict[str, str]:
    """Run all cells and what they need that have not finished.

    Args:
        cells: in the order of their importance.
        root: of the comparison; each cell has a folder there.
        engine: where.
        report: called with {"done", "total", "running": [(title, steps, seconds)], "failed"} now and then.

    Returns:
        title -> what went wrong, of those that failed or whose needs did.
    """
    everything = with_needs(cells)
    finished = {c.key for c in everything if c.row(root) is not None}
    waiting = [c for c in everything if c.key not in finished]
    running: dict[str, tuple[Cell, Any]] = {}
    failed: dict[str, str] = {}
    lost: set[str] = set()
    try:
        while waiting or running:
            for cell in list(waiting):
                if any(n.key in lost for n in cell.needs):
                    failed[cell.title] = "not run, for what it needs has failed"
                    lost.add(cell.key)
                    waiting.remove(cell)
                elif len(running) < engine.slots and all(n.key in finished for n in cell.needs):
                    running[cell.key] = (cell, engine.start(cell.write(root)))
                    waiting.remove(cell)
            time.sleep(LOOK_EVERY)
            for key, (cell, handle) in list(running.items()):
                wrong = engine.ended(handle)
                if wrong is None:
                    continue
                del running[key]
                if wrong or cell.row(root) is None:
                    failed[cell.title] = wrong or "ended without a row"
                    lost.add(key)
                else:
                    finished.add(key)
            if report is not None:
                now = [(c.title, *_progress(c.folder(root))) for c, _ in running.values()]
                report({"done": len(finished), "total": len(everything), "running": now, "failed": dict(failed)})
    finally:
        for _, handle in running.values():
            engine.stop(handle)
    return failed


def _progress(folder: Path) -> tuple[int, float]:
    """Steps trained and seconds spent, as the cell last noted them."""
    try:
        facts = json.loads((folder / "progress.json").read_text())
        return int(facts.get("trained", 0)), float(facts["seconds"])
    except (OSError, ValueError, KeyError):
        return 0, 0.0
