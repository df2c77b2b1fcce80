"""What compressed networks forget: planted populations are judged as they were planted, and a small run is real."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from resprout import find
from resprout.core.errors import ResproutError
from resprout.evaluate.outputs import Outputs
from resprout.studies._population import AGAIN, DENSE, Population, levels
from resprout.studies._study import Finding
from resprout.studies._synthetic import perceptron, two_groups
from resprout.studies.pie import Pie, class_rows

FRAGILE = list(range(0, 90, 3))


def saying(predicted: torch.Tensor, labels: torch.Tensor) -> list[Outputs]:
    return [Outputs(torch.nn.functional.one_hot(p, 10).float() * 9, labels) for p in predicted]


def populations(fragile: list[int], models: int = 6) -> dict[str, list[Outputs]]:
    """Populations on the digits' test labels: pruned networks have the next class on the fragile ones.

    Dense networks get each of those wrong in every third network; all err besides on a sample of their own.
    """
    labels = find.task("digits", None, "digits_cnn").test[1]  # pyright: ignore[reportAttributeAccessIssue]
    said = {}
    for g, label in enumerate((DENSE, AGAIN, "90 %")):
        predicted = labels.repeat(models, 1)
        for i in range(models):
            predicted[i, 300 + models * g + i] = (labels[300 + models * g + i] + 1) % 10
            wrong = fragile if label == "90 %" else fragile[i % 3 :: 3]
            predicted[i, wrong] = (labels[wrong] + 1) % 10
        said[label] = saying(predicted, labels)
    return said


def judged(fragile: list[int], **fields) -> Finding:
    study, task = Pie(sparsities=(0.9,), near=50, **fields), find.task("digits", None, "digits_cnn")
    return study.judge(populations(fragile), levels(study.sparsities), task)


def test_planted_fragile_samples_are_the_exemplars_and_are_found_hard():
    found = judged(FRAGILE)
    assert sorted(r["sample"] for r in found.tables["exemplars"]) == FRAGILE
    dense, again, pruned = found.tables["populations"]
    assert (dense["exemplars"], again["exemplars"], pruned["exemplars"]) == (0, 0, 30)
    assert pruned["share"] == pytest.approx(100 * 30 / 360)
    assert pruned["these on exemplars"] == 0
    assert pruned["other dense on exemplars"] == pytest.approx(100 * 2 / 3)
    assert pruned["other dense on the rest"] == pytest.approx(100 * (1 - 1 / 330))
    assert found.holds is True
    assert "30 of 360" in found.verdict
    titles = [f.title for f in found.figures]
    assert titles[-1] == "Exemplars at 90 % sparsity"
    assert len(found.figures[-1].layout["images"]) == 24


def test_where_nothing_is_forgotten_nothing_is_claimed():
    found = judged([])
    assert found.tables["exemplars"] == []
    assert found.holds is None
    assert "too few" in found.verdict
    assert len(found.figures) == 2, "no gallery of nothing"


def test_a_lost_accuracy_is_not_what_the_claim_is_about():
    task = find.task("digits", None, "digits_cnn")
    found = Pie(sparsities=(0.9,), near=1).judge(populations(FRAGILE), levels((0.9,)), task)
    assert found.holds is None
    assert "no sparsity tried keeps the accuracy" in found.verdict


def test_null_classes_are_seldom_impacted_and_a_planted_one_is():
    chance, labels = np.random.default_rng(0), torch.arange(20).repeat_interleave(200)

    def draw(rate: np.ndarray) -> torch.Tensor:
        wrong = torch.from_numpy(chance.random((12, 4000)) > rate[labels.numpy()])
        return torch.where(wrong, (labels + 1) % 20, labels)

    even = np.full(20, 0.9)
    worse = even.copy()
    worse[7] = 0.7
    rows = class_rows({DENSE: draw(even), AGAIN: draw(even), "90 %": draw(worse)}, labels, 20, 0.05)
    assert sum(r["impacted"] for r in rows if r["population"] == AGAIN) <= 4  # the binomial's 99.7 % of 20 tests
    hit = next(r for r in rows if (r["population"], r["class"]) == ("90 %", 7))
    assert hit["impacted"]
    assert hit["shift"] == pytest.approx(-20 * 19 / 20, abs=3)
    assert hit["relative"] == pytest.approx(-100 * 0.2 / 0.9, abs=4)


def small(folder: Path, models: int = 3) -> Population:
    task = two_groups(train=200, test=100)
    return Population(folder, task, lambda seed: perceptron(21, 16, 2, seed=seed), steps=12, models=models)


def test_a_population_is_trained_once_and_goes_on(tmp_path, monkeypatch):
    groups = levels((0.5,))
    first = small(tmp_path).all(groups)
    assert {label: len(members) for label, members in first.items()} == dict.fromkeys(groups, 3)
    everyone = [m.logits for members in first.values() for m in members]
    assert all(not torch.equal(a, b) for i, a in enumerate(everyone) for b in everyone[:i]), (
        "every network has its own seed"
    )
    assert not list(tmp_path.rglob("checkpoint.safetensors"))
    monkeypatch.setattr("resprout.studies._population.Run", None)  # nothing is trained again
    again = small(tmp_path).all(groups)
    assert all(torch.equal(a.logits, b.logits) for x in groups for a, b in zip(first[x], again[x], strict=True))


def test_a_population_that_was_killed_within_a_network_ends_the_same(tmp_path, monkeypatch):
    whole = small(tmp_path / "whole").member("50 %", 0.5, 0)
    from resprout.core.run import Run

    original, seen = Run.save_now_and_then, []

    def killed(run: Run, **partial) -> None:
        run.save(**partial)
        seen.append(partial["step"])
        if partial["step"] == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_now_and_then", killed)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "cut").member("50 %", 0.5, 0)
    monkeypatch.setattr(Run, "save_now_and_then", original)
    assert torch.equal(small(tmp_path / "cut").member("50 %", 0.5, 0).logits, whole.logits)


def test_compressed_networks_have_the_sparsity_they_are_named_by(tmp_path):
    small(tmp_path).member("80 %", 0.8, 1)
    trace = next(tmp_path.glob("80-%-1-*/trace.jsonl")).read_text().splitlines()
    assert json.loads(trace[-1])["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_a_small_study_runs_writes_and_is_read_again(tmp_path):
    study = Pie(models=3, sparsities=(0.9,), epochs=1, near=100)
    found = study(tmp_path / "pie")
    found.write(tmp_path / "finding.json")
    assert Finding.read(tmp_path / "finding.json").verdict == found.verdict
    assert json.loads((tmp_path / "finding.json").read_text())["tables"]["populations"][2]["networks"] == 3


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ResproutError, match="models must be 3"):
        Pie(models=2)(tmp_path / "pie")
    with pytest.raises(ResproutError, match="sparsities"):
        Pie(sparsities=(1.0,))(tmp_path / "pie")
    with pytest.raises(ResproutError, match="sparsities is empty"):
        Pie(sparsities=())(tmp_path / "pie")
    with pytest.raises(ResproutError, match="epochs"):
        Pie(epochs=0)(tmp_path / "pie")
