"""Run the cells of a comparison in this process, one after another: for many small ones, and tests."""

from __future__ import annotations

from pathlib import Path

from .cell import Cell
from .engine import Engine, Local
from .run import run


class Here(Engine):
    """This process. A cell that raises is a cell that failed; one that is interrupted goes on when started again."""

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def start(self, file: Path) -> str:
        """Run it to its end, and return what went wrong."""
        try:
            run(Cell.read(file), file.parents[2])
        except (ValueError, RuntimeError, OSError) as error:  # as a process of its own would end with
            return f"{type(error).__name__}: {error}"
        return ""

    def ended(self, handle: str) -> str:
        """It has."""
        return handle

    def stop(self, handle: str) -> None:
        """It has."""


def engine(jobs: int) -> Engine:
    """Return the engine for so many cells at a time."""
    return Here() if jobs == 1 else Local(jobs)
