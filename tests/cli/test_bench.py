"""`resprout bench` on a tiny network, and the arithmetic of benchmarks/runtime.py."""

import builtins
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import resprout as rs
from resprout.cli import app
from resprout.cli.bench import take_turns
from resprout.core.errors import ResproutError
from resprout.deploy import interpret, rivals
from resprout.deploy.export.onnx import to_onnx
from resprout.deploy.trace import lower
from resprout.models import build

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*words: object, code: int = 0) -> str:
    """Run `resprout bench`, check its exit code, and return all it printed."""
    result = CliRunner().invoke(app, ["bench", *map(str, words)])
    assert result.exit_code == code, f"{words}: {result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A pruned digits network with its program."""
    torch.manual_seed(0)
    model = build("digits_cnn")
    masks = rs.prune(model, 0.9)
    rs.save(tmp_path / "net.safetensors", model, masks, values="fp32", example=torch.zeros(1, 1, 8, 8))
    return tmp_path / "net.safetensors"


def test_bench_shows_weights_macs_time_and_layers(file):
    said = run(file, "--against", "torch", "--layers", "--seconds", 0, "--batch", 3)
    assert "(90.00 % sparse)" in said
    rows = {line.split("  ")[0]: line for line in said.splitlines()}
    assert {"resprout", "PyTorch, dense"} <= set(rows)
    assert float(rows["PyTorch, dense"].split()[-1]) < 1e-4  # the largest difference
    assert sum(name.endswith(".weight") for name in rows) >= 2


def test_bench_counts_multiply_adds_of_a_linear_layer_by_hand(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(20, 10))
    masks = rs.prune(model, 0.75)
    rs.save(tmp_path / "net.safetensors", model, masks, example=torch.zeros(1, 20))
    said = run(tmp_path / "net.safetensors", "--against", "none", "--seconds", 0)
    assert "multiply-adds per sample: 200 dense, 50 of weights alive" in said
    assert "PyTorch" not in said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--against", "onnx"), "onnxruntime"),
        (("--batch", "0"), "--batch"),
        (("--threads", "0"), "--threads"),
        (("--table", "x.json"), "not both"),
    ],
)
def test_bench_explains_bad_flags(file, words, part):
    said = run(file, *words, code=2)
    assert said.lower().count("error: ") + said.count("Invalid value") >= 1
    assert part in said
    assert "Traceback" not in said


def test_bench_needs_a_file_or_a_table():
    assert "name a FILE" in run(code=2)


def test_bench_explains_files_that_cannot_run(tmp_path):
    model = build("digits_cnn")
    rs.save(tmp_path / "weights.safetensors", model)
    assert "example=" in run(tmp_path / "weights.safetensors", code=2)
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert "error: " in run(tmp_path / "plain.safetensors", code=2)
    assert "error: " in run(tmp_path / "missing.safetensors", code=2)


def absent(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make imports fail as if the modules were not installed."""
    real = builtins.__import__

    def refuse(name: str, *args, **kwargs):
        if name.partition(".")[0] in modules:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_engines_that_are_not_installed_are_left_out_or_named(file, monkeypatch):
    absent(monkeypatch, "onnxruntime", "openvino")
    assert "PyTorch, dense" in run(file, "--seconds", 0)
    said = run(file, "--against", "openvino", code=2)
    assert "pip install" in said


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_rivals_compute_the_same(name, tmp_path):
    torch.manual_seed(0)
    model, x = build("digits_cnn").eval(), np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    traced = lower(model, torch.from_numpy(x))
    if name in ("onnxruntime", "openvino"):
        pytest.importorskip(name)
        pytest.importorskip("onnx")
        to_onnx(tmp_path / "net.onnx", traced.program, traced.tensors)
        make = rivals.onnx_runtime if name == "onnxruntime" else rivals.openvino
        call = make(tmp_path / "net.onnx", x, 1)
    else:
        call = rivals.eager(lambda x: interpret.run(traced.program, traced.tensors, x), x)
    wanted = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(call(), wanted, atol=1e-4)
    np.testing.assert_allclose(call(), wanted, atol=1e-4)


def test_quickest_is_the_one_that_does_least():
    def slow():
        return np.full(1, sum(range(200_000)), np.float32)

    def fast():
        return np.zeros(1, np.float32)

    assert rivals.quickest([slow, fast]) is fast


def test_turns_are_taken_in_every_round():
    order: list[str] = []
    found = take_turns({n: lambda n=n: order.append(n) for n in "ab"}, 0)
    assert [len(us) for us in found.values()] == [5, 5]
    changes = [a for a, b in zip(order, [*order[1:], ""], strict=True) if a != b]
    assert changes[-10:] == ["a", "b"] * 5


# -- benchmarks/ ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_pages")


def cell(net: str, sparsity: float, batch: int, dense: float, deepsparse: float) -> dict:
    ratios = {"openvino": [dense] * 3, "onnxruntime": [dense + 1] * 3, "deepsparse": [deepsparse] * 3}
    facts = {
        "net": net,
        "sparsity": sparsity,
        "batch": batch,
        "threads": 1,
        "rounds": 7,
        "disturbed": 0.1,
        "time": "2026",
    }
    engine = {"us": 100.0, "low": 90.0, "high": 110.0, "version": "1", "error": 0.0}
    engines = dict.fromkeys(["ours", *ratios], engine)
    return facts | {"engines": engines, "ratios": ratios, "weights": "random", "kernels": "0", "command": "python x"}


def test_targets_are_those_of_the_issue(pages):
    assert pages.target(cell("vgg16", 0.99, 1, 0, 0)) == {"dense": 15, "deepsparse": 2}
    assert pages.target(cell("vgg16", 0.9, 1, 0, 0)) == {"dense": 1, "deepsparse": 1}
    assert pages.target(cell("resnet20", 0.99, 1, 0, 0)) == {"dense": 10, "deepsparse": 2}
    assert pages.target(cell("resnet20", 0.95, 1, 0, 0)) == {"dense": 1, "deepsparse": 1.5}
    assert pages.target(cell("resnet20", 0.9, 32, 0, 0)) == {"dense": 1}
    assert pages.target(cell("vgg16", 0.95, 32, 0, 0)) == {"dense": 1, "deepsparse": 1}


def test_verdict_takes_the_dense_engine_that_is_nearest(pages):
    assert pages.best_dense(cell("vgg16", 0.99, 1, 14.9, 2)) == "openvino"
    assert pages.verdict(cell("vgg16", 0.99, 1, 14.9, 2)) == {"dense": False, "deepsparse": True}
    assert pages.verdict(cell("resnet20", 0.9, 1, 1.0, 1.01)) == {"dense": False, "deepsparse": True}  # ahead: above 1


def test_tables_stand_between_the_marks_and_nothing_else_changes(pages, tmp_path):
    page = tmp_path / "page.md"
    page.write_text((BENCHMARKS.parent / "docs" / "performance.md").read_text())
    machine = {"cpu": "a", "cores": 2, "system": "b", "python": "3"}
    results = {"machine": machine, "cells": [cell("vgg16", 0.99, 1, 14.9, 2.5)]}
    pages.markdown(results, page)
    once = page.read_text()
    assert "missed: VGG16 99 %, batch 1, 1 thread (15× dense)" in once
    assert "**14.9** (14.9–14.9)" in once
    pages.markdown(results, page)
    assert page.read_text() == once


def test_results_of_the_page_are_those_of_the_last_run(pages, tmp_path):
    results = BENCHMARKS / "results" / "runtime.json"
    page = tmp_path / "page.md"
    there = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    page.write_text(there)
    pages.markdown(json.loads(results.read_text()), page)
    assert page.read_text() == there, "docs/performance.md is stale: python benchmarks/runtime.py --markdown"


def test_worker_answers_says_why_it_fails_and_ends(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    engines = importlib.import_module("_engines")
    worker = engines.Worker("nothing", 1, [0], sys.executable, tmp_path / "log")
    try:
        assert len(worker.ask(calls=3)["us"]) == 3
        with pytest.raises(engines.EngineError, match=r"nothing failed: .*net"):
            worker.ask(load=str(tmp_path / "net"), net="vgg16", batch=1)
        assert worker.process.poll() is not None
    finally:
        worker.close()


def test_ratios_are_taken_within_a_round(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    runtime = importlib.import_module("runtime")
    # The machine is ten times slower in the second round, for both.
    turns = {"ours": [1.0, 10.0, 1.0], "openvino": [2.0, 20.0, 2.0]}
    assert runtime.ratios(turns) == {"openvino": [2.0, 2.0, 2.0]}
    assert runtime.ratios({"openvino": [1.0]}) == {}
    assert runtime.key({"net": "a", "sparsity": 0.9, "batch": 1, "threads": 2}) == ("a", 0.9, 1, 2)


def test_resprout_error_is_what_missing_engines_raise(monkeypatch, tmp_path):
    absent(monkeypatch, "onnxruntime")
    with pytest.raises(ResproutError, match="pip install onnxruntime"):
        rivals.onnx_runtime(tmp_path / "net.onnx", np.zeros((1, 1), np.float32), 1)
