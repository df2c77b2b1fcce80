"""A small real comparison and a finding, for the page's tests."""

from pathlib import Path
from typing import Any

import pytest

from resprout.compare import compare, engine
from resprout.compare.cell import Cell
from resprout.compare.run import run
from resprout.report.figure import heat, lines
from resprout.studies._study import Finding


class Here(engine.Engine):
    """Runs every cell in this process: starting one costs nothing."""

    @property
    def slots(self) -> int:
        return 1

    def start(self, file: Path) -> str:
        run(Cell.read(file), file.parents[2])
        return ""

    def ended(self, handle: Any) -> str | None:
        return handle

    def stop(self, handle: Any) -> None:
        pass


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms and a control at three budgets with two seeds, on digits; a few steps each."""
    folder = tmp_path_factory.mktemp("page") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "LOOK_EVERY", 0.0)  # cells have ended before they are looked at
        compare(
            ["one_way", "bidirectional_gradual", "scratch(one_way)"], sparsity=(0.5, 0.9, 0.98), seeds=2, epochs=0.5,
            dense_epochs=1, engine=Here(), out=folder, command="resprout compare one_way bidirectional_gradual",
        )  # fmt: skip
    return folder


@pytest.fixture
def finding() -> Finding:
    figures = (
        lines(
            "Two ways", {"one": {"x": [1, 2], "y": [0.5, 0.75], "spread": [0.01, 0.02]}}, "step", "share", words="Up."
        ),
        heat("A map", [[1.0, float("nan")], [0.0, 2.0]], ["a", "b"], ["c", "d"], "column", "row"),
    )
    tables = {
        "A table": [{"arm": "one", "gain": 1.25, "shown": True}, {"arm": "two", "gain": float("nan"), "shown": False}]
    }
    return Finding("It is so: +1.2 points [0.3, 2.1].", True, tables, figures, 12.0)
