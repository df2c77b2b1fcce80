"""The picture, from a `result.json` alone."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from resprout.core.errors import CheckpointError, ResproutError
from resprout.report.picture import draw


def arrival(budget: str, sparsity: float, validation: float) -> dict[str, Any]:
    return {"budget": budget, "sparsity": sparsity, "validation": validation, "test": validation - 0.01, "alive": 97568}


def result(**changes: Any) -> dict[str, Any]:
    """A result of a cut to 99.2 % and a regrowth through two budgets."""
    return {
        "dense": arrival("none", 0.0, 0.99),
        "frontier": [arrival("4KiB", 0.99, 0.94), arrival("8KiB", 0.97, 0.98)],
        "control": [arrival("4KiB", 0.99, 0.93), arrival("8KiB", 0.97, 0.97)],
        "curve": [[0.5, 0.99], [0.9, 0.98], [0.97, 0.94], [0.99, 0.7], [0.998, 0.2]],
        "cliff": 0.97,
        "stump": 0.992,
        "path": [[0, 0.0, 0.99], [9, 0.9, 0.97], [20, 0.992, 0.9], [30, 0.99, 0.94], [40, 0.97, 0.98]],
        **changes,
    }


def write(folder: Path, facts: Any) -> Path:
    (folder / "result.json").write_text(facts if isinstance(facts, str) else json.dumps(facts))
    return folder


def test_png_and_svg_and_again_the_same(tmp_path: Path):
    pytest.importorskip("matplotlib")
    paths = draw(write(tmp_path, result()))
    png, svg = Path(paths["png"]).read_bytes(), Path(paths["svg"]).read_bytes()
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    draw(tmp_path)
    assert Path(paths["png"]).read_bytes() == png
    assert Path(paths["svg"]).read_bytes() == svg


def test_what_there_is_to_read_is_on_it():
    pytest.importorskip("matplotlib")
    from resprout.report.picture import figure

    ax = figure(result()).axes[0]
    words = {text.get_text().strip() for text in ax.texts} | {ax.get_title(loc="left")}
    assert {"cliff", "stump", "4KiB", "8KiB", "dense"} <= words
    assert any("98.00 %" in word for word in words)  # the dense test accuracy
    labels = ax.get_legend_handles_labels()[1]
    assert len(labels) == 4
    left, right = ax.get_xlim()
    assert left > 1 > 0.01 > right, "dense on the left, and the sparsest point on the page"
    low, high = ax.get_ylim()
    assert low < 0.2
    assert high > 0.99


def test_a_run_that_never_grew_is_not_said_to_have():
    pytest.importorskip("matplotlib")
    from resprout.report.picture import figure

    path = [[0, 0.0, 0.99], [9, 0.9, 0.97], [20, 0.99, 0.94]]
    drawn = figure(result(stump=0.99, path=path, frontier=[arrival("4KiB", 0.99, 0.94)]))
    ax = drawn.axes[0]
    words = [text.get_text().strip() for text in ax.texts] + [drawn.get_suptitle(), ax.get_title(loc="left")]
    words += ax.get_legend_handles_labels()[1]
    assert "Cut to 4KiB" in words
    assert not any("regrown" in word or "stump" in word for word in words)


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": [], "cliff": None, "control": []},
        {"path": [], "stump": None, "curve": []},
        {"frontier": [arrival("0.5", 0.5, 1.0)], "dense": arrival("none", 0.0, 1.0), "path": [], "curve": [], "control": []},
        {"curve": [[1.0, 0.1], [0.5, 0.0]]},
    ],
)  # fmt: skip
def test_incomplete_and_extreme_results_are_drawn(changes: dict[str, Any], tmp_path: Path):
    pytest.importorskip("matplotlib")
    draw(write(tmp_path, result(**changes)))


@pytest.mark.parametrize("facts", ["", "{", "[]", "{}", '{"dense": {}, "frontier": []}', "null"])
def test_damaged_results_are_refused(facts: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"result\.json"):
        draw(write(tmp_path, facts))
    assert not list(tmp_path.glob("picture*"))


def test_a_folder_without_result(tmp_path: Path):
    with pytest.raises(CheckpointError, match="not ended"):
        draw(tmp_path)


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResproutError, match=r"resprout\[report\]"):
        draw(write(tmp_path, result()))
