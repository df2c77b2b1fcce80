"""What is on the page, without a browser."""

import dataclasses
import json
import math
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resprout.cli import app
from resprout.compare.statistics import Difference
from resprout.compare.table import Line
from resprout.core.errors import CheckpointError, ResproutError
from resprout.report import accuracy, journey
from resprout.report.figure import bars, heat, style
from resprout.report.gather import Gathered, asked, listed
from resprout.report.page import jsonable, read, write_page
from resprout.report.verdict import caveats, headline
from resprout.studies._study import Finding

pytest.importorskip("plotly")
pytest.importorskip("jinja2")


def line(
    arm: str,
    budget: str,
    gap: tuple[float, float, float] | None,
    *,
    kind: str = "recipe",
    seeds: int = 3,
    note: str = "",
) -> Line:
    against = None if gap is None else Difference(*gap, seeds)
    return Line(arm, budget, kind, seeds, (0.9, 0.01), (0.9, 0.01), 0.9, 100.0, (10, 10), 0, 1.0, against, note)


BASE = line("one_way", "0.9", None)
WIN, LOSS, NEITHER = (1.25, 0.3, 2.2), (-2.0, -3.0, -1.0), (0.5, -0.1, 1.1)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([BASE, line("x", "0.9", WIN)], "x beats one_way at 90 % (+1.2 points)."),
        ([BASE, line("x", "0.9", NEITHER)], "No difference is shown between x and one_way."),
        ([BASE, line("x", "0.9", NEITHER), line("y", "0.9", NEITHER)], "No difference is shown between any arm and one_way."),
        ([BASE, line("x", "0.9", LOSS)], "x falls behind one_way at 90 % (−2.0 points)."),
        (
            [BASE, line("x", "0.9", NEITHER), line("y", "0.98", LOSS)],
            "No arm is shown to beat one_way; y falls behind one_way at 98 % (−2.0 points).",
        ),
        ([BASE, line("x", "0.9", WIN), line("x", "0.98", WIN)], "x beats one_way at 90 % and 98 % (+1.2 and +1.2 points)."),
        ([BASE, line("scratch(one_way)", "0.9", WIN, kind="control")], "one_way on its own: nothing to compare it with yet."),
        (
            [BASE, *(line(name, "16KiB", WIN) for name in "abcd")],
            "a, b and 2 more beat one_way at 16KiB.",
        ),
    ],
)  # fmt: skip
def test_the_headline_says_what_the_intervals_say_and_no_more(lines, says):
    assert headline(lines, "one_way") == says


def test_what_must_be_said_beside_it():
    few = caveats([BASE, line("x", "0.9", WIN, seeds=1)], "one_way")
    assert "test samples alone" in few[0]
    unequal = caveats([BASE, line("x", "0.9", WIN, note="other training: 1.50 times the steps")], "one_way")
    assert unequal == ["Unequal: x at 90 % – other training: 1.50 times the steps."]
    control = caveats([BASE, line("scratch(x)", "0.9", WIN, kind="control")], "one_way")
    assert control == ["Of the controls, scratch(x) beats one_way at 90 % (+1.2 points)."]
    assert caveats([BASE, line("x", "0.9", WIN)], "one_way") == []


def test_words():
    assert [asked("0.97"), asked("16KiB")] == ["97 %", "16KiB"]
    assert [listed(["a"]), listed(["a", "b"]), listed(list("abcd"))] == ["a", "a and b", "a, b and 2 more"]


def test_the_axis_of_errors_is_logarithmic_and_keeps_everything_on_the_page():
    errors = accuracy.Errors([0.5, 0.9, 1.0])
    assert errors(0.9) - errors(1.0) == pytest.approx(0.1)
    axis = errors.axis("accuracy")
    low, high = axis["range"]
    assert high < math.log10(errors(1.0)) < math.log10(errors(0.5)) < low
    assert "100 %" in axis["ticktext"]
    up, down = errors.whiskers(0.999, 0.01)  # would end above 100 %
    assert up == pytest.approx(0.01)
    assert errors(0.999) - down == pytest.approx(errors(1.0))


def test_the_axis_of_sparsity_marks_what_was_asked():
    assert accuracy.sparsities(0.1, 0.03, ["0.9", "0.97", "16KiB"])["ticktext"] == ["90 %", "95 %", "97 %"]
    assert accuracy.sparsities(0.5, 0.35)["ticktext"] == [
        "50 %",
        "60 %",
        "70 %",
    ]  # too short an axis for the usual marks


class Headings(HTMLParser):
    """Collects headings, captions and what is outside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.outside: list[str] = []
        self.tables = self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.tables += tag == "table"
        self.captions += tag == "caption"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action") and value and not value.startswith(("#", "data:")):
                self.outside.append(value)


def test_one_file_with_its_headings_in_order_and_nothing_outside(comparison: Path):
    began = time.monotonic()
    page = write_page(comparison)
    assert time.monotonic() - began < 20
    assert page == comparison / "index.html"
    found = Headings()
    found.feed(page.read_text())
    assert found.outside == []
    assert found.levels[0] == 1
    assert found.levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(found.levels, found.levels[1:], strict=False)), found.levels
    assert found.tables == found.captions >= 2


def test_what_there_is_to_know_is_on_it(comparison: Path):
    text = write_page(comparison).read_text()
    lines = Gathered.read(comparison).lines
    for want in (headline(lines, "one_way"), "resprout compare one_way bidirectional_gradual", "digits_cnn on digits", "fp16",
                 "20 of 20 finished", "trained from new random weights"):  # fmt: skip
        assert want in text, want
    for x in lines:
        assert f"{100 * x.test[0]:.2f} ± {100 * x.test[1]:.2f}" in text


def test_the_figures_hold_the_numbers_of_the_cells(comparison: Path):
    gathered = Gathered.read(comparison)
    figure = accuracy.over_sparsity(gathered)
    assert [t["name"] for t in figure.traces] == ["one_way", "bidirectional_gradual", "dense network"]
    errors = accuracy.Errors([r["test"] for c, r in gathered.rows.items() if c.arm is None or not c.arm.control])
    means = [x.test[0] for x in gathered.lines if x.arm == "one_way"]
    assert figure.traces[0]["y"] == pytest.approx([errors(m) for m in means])
    way = journey.path(gathered, "bidirectional_gradual", "0.98")
    cell, _ = gathered.of("bidirectional_gradual", "0.98")[0]
    steps = gathered.detail(cell)["path"]
    mine = next(t for t in way.traces if "step by step" in t["name"])
    assert mine["x"] == pytest.approx([1 - s for _, s, _ in steps])
    assert any("stump" in a["text"] for a in way.layout["annotations"])  # this arm cuts past its budget
    assert len(journey.one_way(gathered)) == 4  # dense and three budgets: enough for a cliff


def test_failed_and_waiting_cells_are_listed(comparison: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(comparison, folder)
    gathered = Gathered.read(folder)
    failed, waiting = (gathered.of("bidirectional_gradual", "0.98")[seed][0] for seed in (0, 1))
    for cell in (failed, waiting):
        shutil.rmtree(cell.folder(folder))
    facts = json.loads((folder / "compare.json").read_text())
    (folder / "compare.json").write_text(json.dumps(facts | {"failed": {failed.title: "out of\nmemory"}}))
    text = write_page(folder).read_text()
    assert "Cells that failed" in text
    assert "out of memory" in text
    assert f"1 of 20 cells have not run: {waiting.title}." in text


def test_a_study_and_a_comparison_below_one_folder(comparison: Path, finding: Finding, tmp_path: Path):
    shutil.copytree(comparison, tmp_path / "all" / "comparisons" / "digits")
    finding.write(
        tmp_path / "all" / "studies" / "mine" / "finding.json",
        name="mine",
        claim="It is so.",
        command="resprout study mine",
    )
    dataclasses.replace(finding, holds=None).write(
        tmp_path / "all" / "studies" / "other" / "finding.json", name="other", claim="?"
    )
    text = write_page(tmp_path / "all").read_text()
    for want in (
        "holds here",
        "not decided here",
        "It is so: +1.2 points [0.3, 2.1].",
        "resprout study mine",
        "digits_cnn on digits",
        "A table",
    ):
        assert want in text
    several = write_page(comparison, tmp_path / "all" / "studies", out=tmp_path / "page.html")
    assert several.read_text().count("<article") == 3


def test_what_cannot_be_drawn_is_said(comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match=r"no compare.json"):
        write_page(tmp_path)
    with pytest.raises(ResproutError, match="--out"):
        write_page(comparison, comparison)
    (tmp_path / "finding.json").write_text("{")
    with pytest.raises(CheckpointError, match="run the study again"):
        read(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ResproutError, match=r"resprout\[report\]"):
        write_page(comparison)


def test_a_comparison_of_which_nothing_has_finished(comparison: Path, tmp_path: Path):
    shutil.copy(comparison / "compare.json", tmp_path)
    with pytest.raises(CheckpointError, match="no cell"):
        write_page(tmp_path)


def test_json_has_no_numbers_that_are_none():
    assert jsonable({"a": [float("nan"), 1 / 3, math.inf], "b": (True, None, "x")}) == {
        "a": [None, 0.333333, None],
        "b": [True, None, "x"],
    }


def test_names_of_bars_and_maps_are_no_numbers():
    shown = heat("", [[1.0], [2.0]], ["a"], ["50 %", "dense"], "column", "row")
    assert (shown.layout["xaxis"]["type"], shown.layout["yaxis"]["type"]) == ("category", "category")
    assert bars("", {"one": {"x": ["50 %"], "y": [1.0]}}, "name", "value").layout["xaxis"]["type"] == "category"


def test_many_series_can_be_told_apart():
    assert len({style(i) for i in range(49)}) == 49


def test_a_comparison_of_which_only_the_dense_networks_have_finished(comparison: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(comparison, folder)
    for cell in Gathered.read(folder).rows:
        if cell.arm is not None:
            shutil.rmtree(cell.folder(folder))
    text = write_page(folder).read_text()
    assert "nothing to compare it with yet" in text
    assert "18 of 20 cells have not run" in text


def test_one_seed_and_one_budget_have_no_spread(comparison: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(comparison, folder)
    facts = json.loads((folder / "compare.json").read_text())
    (folder / "compare.json").write_text(json.dumps(facts | {"seeds": [0], "budgets": ["0.9"]}))
    figure = accuracy.over_sparsity(Gathered.read(folder))
    assert "without a spread" in figure.words
    assert figure.traces[0]["error_y"]["array"] == [0.0]
    assert "test samples alone" in write_page(folder).read_text()


def command(*words: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_command_line_writes_it(comparison: Path, tmp_path: Path):
    assert command("report", str(comparison)) == f"wrote {comparison / 'index.html'}"
    assert "page.html" in command("report", str(comparison), "--out", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").stat().st_size > 4_000_000  # plotly.js is in it


def test_a_comparison_ends_with_its_page(comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "copy"
    shutil.copytree(comparison, folder)
    words = [
        "compare",
        "one_way",
        "bidirectional_gradual",
        "scratch(one_way)",
        "--seeds",
        "2",
        "--epochs",
        "0.5",
        "--dense-epochs",
        "1",
    ]
    words += [
        "--sparsity",
        "0.5",
        "--sparsity",
        "0.9",
        "--sparsity",
        "0.98",
        "--out",
        str(folder),
    ]  # all cells have finished
    (folder / "index.html").unlink(missing_ok=True)
    assert f"wrote {folder / 'index.html'}" in command(*words)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert "no page: the page needs plotly" in command(*words)
