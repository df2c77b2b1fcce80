"""A whole comparison, small: cells, controls, table; stopped, killed and gone on with."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import resprout as rs
from resprout.compare import Comparison, compare
from resprout.compare.arms import CONTROLS, parse
from resprout.compare.cell import Cell, Settings
from resprout.compare.control import shuffled, start
from resprout.compare.engine import Local, execute, with_needs
from resprout.compare.here import Here
from resprout.compare.run import run
from resprout.core.errors import CheckpointError, ResproutError
from resprout.core.masks import Masks
from resprout.evaluate.outputs import Outputs, outputs
from resprout.tasks.arrays import Arrays

NET = """
from torch import nn

def net():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 10))
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *pooled)

def broken():
    class Odd(nn.Linear):
        def forward(self, x):
            raise RuntimeError("this network does not work")
    return nn.Sequential(nn.Flatten(), Odd(64, 10))
"""
SMALL = {"epochs": 1.0, "dense_epochs": 1.0}


class Counted(Here):
    """Counts the cells it runs."""

    def __init__(self):
        self.titles: list[str] = []

    def start(self, file):
        self.titles.append(Cell.read(file).title)
        return super().start(file)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("resprout.compare.engine.LOOK_EVERY", 0.01)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("net") / "net.py"
    file.write_text(NET)
    return f"{file}:net"


@pytest.fixture(scope="module")
def done(tmp_path_factory, net) -> tuple[Comparison, Counted]:
    engine = Counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resprout.compare.engine.LOOK_EVERY", 0.01)
        made = compare(
            ["one_way", "bidirectional_gradual"], sparsity=[0.5, 0.8], budget=["1KiB"], model=net, seeds=2, controls=["all"],
            engine=engine, out=tmp_path_factory.mktemp("compare"), **SMALL,
        )  # fmt: skip
    return made, engine


def test_every_cell_is_run_once_and_the_dense_network_once_a_seed(done):
    made, engine = done
    arms = 2 * (1 + len(CONTROLS))
    assert len(engine.titles) == len(set(engine.titles)) == 2 * (1 + 3 * arms)
    assert not made.failed
    assert engine.titles[0] == "dense seed 0"


def test_the_same_again_runs_nothing_and_one_seed_more_runs_only_that(done, net, tmp_path):
    made, _ = done
    folder, engine = tmp_path / "copy", Counted()
    shutil.copytree(made.folder, folder)
    again = compare(
        ["one_way", "bidirectional_gradual"], sparsity=[0.5, 0.8], budget=["1KiB"], model=net, seeds=2, controls=["all"],
        engine=engine, out=folder, **SMALL,
    )  # fmt: skip
    assert engine.titles == []
    assert again.rows == made.rows
    compare(["one_way"], sparsity=[0.5], model=net, seeds=3, engine=engine, out=folder, **SMALL)
    assert engine.titles == ["dense seed 2", "one_way 0.5 seed 2"]


def test_arms_have_the_same_training_and_the_budgets_are_met(done):
    made, _ = done
    recipes = [r for r in made.rows if r["kind"] == "recipe"]
    assert len({r["steps"] for r in recipes}) == 1
    for row in recipes:
        if row["asked"] == "1KiB":
            assert row["bytes"] <= 1024
        else:
            assert row["sparsity"] == pytest.approx(float(row["asked"]), abs=0.001)


def test_test_accuracy_is_that_of_the_outputs(done):
    made, _ = done
    for cell in made.cells:
        row, said = cell.row(made.folder), Outputs.read(cell.folder(made.folder) / "outputs.safetensors")
        assert row["test"] == pytest.approx(said.accuracy)
        assert row["test_loss"] == pytest.approx(said.loss)


def test_test_data_are_looked_at_once_for_each_network(done, tmp_path, monkeypatch):
    made, _ = done
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    cell = next(c for c in made.cells if c.title == "one_way 0.8 seed 0")
    shutil.rmtree(cell.folder(folder))
    looked: list[str] = []
    batches = Arrays.batches

    def watched(self, split, **how):
        looked.append(split)
        return batches(self, split, **how)

    monkeypatch.setattr(Arrays, "batches", watched)
    run(cell, folder)
    assert looked.count("test") == 2  # the dense network's and the arm's, for their numbers and for the page
    assert cell.row(folder)["test"] == cell.row(made.folder)["test"]


def test_the_table_is_tidy_in_both_formats(done):
    made, _ = done
    table = pq.read_table(made.folder / "table.parquet").to_pylist()
    with (made.folder / "table.csv").open() as f:
        text = list(csv.DictReader(f))
    assert len(table) == len(text) == len(made.rows) == len(made.cells)
    assert [float(r["test"]) for r in text] == [r["test"] for r in table] == [r["test"] for r in made.rows]


def test_the_summary_compares_with_the_baseline(done):
    made, _ = done
    lines = {(line.arm, line.asked): line for line in made.lines}
    assert len(lines) == 3 * 2 * (1 + len(CONTROLS))
    one, two = lines["one_way", "0.8"], lines["bidirectional_gradual", "0.8"]
    assert one.against is None
    assert two.against is not None
    assert two.against.mean == pytest.approx(100 * (two.test[0] - one.test[0]))
    assert lines["scratch(one_way)", "0.8"].note == ""  # the dense network's steps and the recipe's
    assert "times as long" in lines["scratch_compute(one_way)", "0.8"].note


def test_a_comparison_is_read_back(done):
    made, _ = done
    again = Comparison.read(made.folder)
    assert again == made
    with pytest.raises(CheckpointError, match="no comparison"):
        Comparison.read(made.folder / "cells")


def test_the_way_is_kept_for_the_page(done):
    made, _ = done
    cell = next(c for c in made.cells if c.title.startswith("bidirectional_gradual 0.8"))
    detail = json.loads((cell.folder(made.folder) / "detail.json").read_text())
    assert detail["stump"]["sparsity"] > 0.8  # past the target
    assert sum(detail["stump"]["counts"].values()) < sum(detail["counts"].values())
    assert set(detail["damage"]) == {"stump", "end"}
    assert detail["losses"] == sorted(detail["losses"])


def test_controls_keep_what_they_promise(done):
    made, _ = done
    found = {c.title: c for c in made.cells}
    arm = found["one_way 0.8 seed 0"]
    file = arm.folder(made.folder) / arm.row(made.folder)["file"]
    task, fresh = _task(), _net(made)
    masks = start("scratch", _net(made), file, task, 4.0, 0).masks
    assert masks.alive == arm.row(made.folder)["alive"]
    moved = start("shuffled", _net(made), file, task, 4.0, 0).masks
    assert moved.counts == masks.counts
    assert (moved & masks).alive < masks.alive
    long = start("scratch_compute", _net(made), file, task, 100.0, 0)
    assert 1 < long.times < 100
    assert start("scratch_compute", fresh, file, task, 1.5, 0).times == 1.5
    small = start("small", _net(made), file, task, 4.0, 0)
    assert 0.5 * masks.alive < Masks.dense(small.model).total <= masks.alive
    assert all(bool(m.all()) for m in small.masks.values())


def test_what_a_control_is_tested_as_is_what_it_saves(done):
    made, _ = done
    for name in ("shuffled", "small"):
        cell = next(c for c in made.cells if c.title == f"{name}(one_way) 0.8 seed 0")
        row = cell.row(made.folder)
        file = cell.folder(made.folder) / row["file"]
        assert file.stat().st_size == row["bytes"]
        said = Outputs.read(file.with_name("outputs.safetensors"))
        model = rs.load(file, into=_net(made)).eval()
        again = outputs(model, _task(), "test")
        assert again is not None
        assert torch.allclose(again.logits, said.logits, atol=1e-5)


def test_shuffled_differs_with_the_seed():
    masks = Masks({"a": torch.arange(100).view(10, 10) % 3 == 0})
    assert shuffled(masks, 0) == shuffled(masks, 0) != shuffled(masks, 1)


def test_a_cell_that_fails_stops_no_other(tmp_path, net):
    seen: list[dict] = []
    settings = Settings("digits", net, **SMALL)
    wrong = Settings("digits", net.replace(":net", ":broken"), **SMALL)
    cells = [Cell(wrong, parse("one_way"), "0.5", 0), Cell(settings, parse("one_way"), "0.5", 0)]
    failed = execute(cells, tmp_path, Counted(), seen.append)
    assert failed.keys() == {"dense seed 0", "one_way 0.5 seed 0"}
    assert failed["dense seed 0"].endswith("this network does not work")
    assert failed["one_way 0.5 seed 0"] == "not run, for what it needs has failed"
    assert cells[1].row(tmp_path) is not None
    assert seen[-1]["done"] == 2
    assert seen[-1]["total"] == 4


def test_a_process_that_fails_says_why(tmp_path, net):
    cell = Cell(Settings("digits", net.replace(":net", ":broken"), **SMALL), None, "", 0)
    failed = execute([cell], tmp_path, Local(jobs=1))
    assert "this network does not work" in failed["dense seed 0"]
    assert "log.txt" in failed["dense seed 0"]


def test_names_of_cells_follow_what_decides_them(tmp_path):
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a.write_bytes(b"same"), b.write_bytes(b"same")
    base = Cell(Settings(weights=str(a)), parse("one_way"), "0.9", 0)
    assert base.key == Cell(Settings(weights=str(b), data="elsewhere"), parse("one_way(lr=0.1)"), "0.9", 0).key
    b.write_bytes(b"other")
    others = [
        Cell(Settings(weights=str(b)), parse("one_way"), "0.9", 0),
        Cell(Settings(weights=str(a), epochs=9), parse("one_way"), "0.9", 0),
        Cell(Settings(weights=str(a), about="other data"), parse("one_way"), "0.9", 0),
        Cell(Settings(weights=str(a)), parse("one_way(lr=0.2)"), "0.9", 0),
        Cell(Settings(weights=str(a)), parse("one_way"), "0.95", 0),
        Cell(Settings(weights=str(a)), parse("one_way"), "0.9", 1),
        Cell(Settings(weights=str(a)), None, "", 0),
    ]
    assert len({base.key, *(c.key for c in others)}) == 8
    assert Cell.read(base.write(tmp_path)) == base


def test_needs_come_first():
    cells = [Cell(Settings(), parse("scratch(one_way)"), "0.9", 0)]
    assert [c.title for c in with_needs(cells)] == ["dense seed 0", "one_way 0.9 seed 0", "scratch(one_way) 0.9 seed 0"]


def test_damaged_files_are_named(tmp_path):
    cell = Cell(Settings(), None, "", 0)
    file = cell.write(tmp_path)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="no cell"):
        Cell.read(file)
    file.with_name("row.json").write_text('{"test":')
    with pytest.raises(CheckpointError, match="delete it"):
        cell.row(tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"arms": []}, "needs arms"),
        ({"sparsity": []}, "at least one budget"),
        ({"sparsity": [98]}, "did you mean 0.98"),
        ({"budget": ["eight"]}, "cannot read budget"),
        ({"seeds": 0}, "seeds"),
        ({"epochs": 0}, "epochs"),
        ({"dense_epochs": 0}, "dense_epochs"),
        ({"controls": ["scrach"]}, "'scratch'"),
        ({"baseline": "two_way"}, "baseline"),
        ({"engine": "rey"}, "'ray'"),
        ({"model": "digits_cn"}, "'digits_cnn'"),
        ({"model": "nowhere.py:net"}, "nowhere.py"),
        ({"task": "no.such.module:task"}, "no"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"values": "fp17"}, "'fp16'"),
        ({"granularity": "chanel"}, "granularity"),
    ],
)
def test_bad_input_is_named_before_anything_is_run(given, says, tmp_path):
    usual = {"arms": ["one_way"], "sparsity": [0.9], "dense_epochs": 1.0, "engine": Counted(), "out": tmp_path / "x"}
    with pytest.raises(ResproutError, match=says):
        compare(**usual | given)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "x" / "cells").exists()


def test_killed_and_started_again_it_comes_to_the_same(tmp_path):
    """The engine and its cells are killed; the cells end with it, and what was done is not done again."""
    options = "--sparsity 0.5 0.8 --model digits_cnn --epochs 30 --dense-epochs 2 --seeds 1 --jobs 2"
    words = [sys.executable, "-m", "resprout", "compare", "one_way", *options.split(" ")]
    first = subprocess.Popen([*words, "--out", tmp_path / "a"], stdout=subprocess.DEVNULL)
    cells = tmp_path / "a" / "cells"
    under_way: list[dict] = []
    for _ in range(1800):
        notes = [
            json.loads(p.read_text()) for p in cells.glob("*/progress.json") if not (p.parent / "row.json").exists()
        ]
        under_way = [n for n in notes if n.get("trained", 0) > 40]
        if under_way:
            break
        time.sleep(0.1)
    assert under_way
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert _gone([n["pid"] for n in under_way])
    dense = next(cells.glob("*/dense.safetensors")).stat().st_mtime_ns
    subprocess.run([*words, "--out", tmp_path / "a"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*words, "--out", tmp_path / "b"], check=True, stdout=subprocess.DEVNULL)
    assert next(cells.glob("*/dense.safetensors")).stat().st_mtime_ns == dense
    one, two = (Comparison.read(tmp_path / name).rows for name in "ab")
    for row in (*one, *two):
        row["seconds"] = None
    assert one == two


def _gone(pids: list[int]) -> bool:
    for _ in range(150):
        alive = [
            p for p in pids if Path(f"/proc/{p}").exists() and "Z" not in Path(f"/proc/{p}/stat").read_text().split()[2]
        ]
        if not alive:
            return True
        time.sleep(0.1)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return False


def _task():
    from resprout.tasks.digits import digits

    return digits()


def _net(made: Comparison):
    from resprout import find

    return find.network(made.cells[0].settings.model, None, 5)
