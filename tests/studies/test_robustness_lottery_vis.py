"""Angles and norms under corruption: parts that sum, planted measurements, and a small run that goes on."""

import copy
import json

import numpy as np
import pytest
import torch

from resprout import find
from resprout.core.errors import ResproutError
from resprout.evaluate.corruptions import SUITE
from resprout.evaluate.geometry import Geometry
from resprout.studies._geometry_views import METHODS, Measured, views
from resprout.studies._study import Finding
from resprout.studies.robustness_lottery_vis import FIELDS, RobustnessLotteryVis, measure, parts, robustness, said

CONDITIONS = [("clean", 0), ("blur", 1), ("blur", 5), ("occlusion", 1), ("occlusion", 5)]


def planted(**moved: np.ndarray) -> Measured:
    """Six seeds of five equal methods under the conditions, on the digits' test labels; `moved` replaces fields."""
    task, chance = find.task("digits", None, "digits_cnn"), np.random.default_rng(0)
    labels = task.test[1].numpy()  # pyright: ignore[reportAttributeAccessIssue]
    shape = (6, len(METHODS), len(CONDITIONS), len(labels))
    one = {n: np.abs(chance.normal(1, 0.1, (6, 1, *shape[2:]))) for n in FIELDS}
    one["right"] = (chance.random((6, 1, *shape[2:])) < 0.8).astype(float)
    one["angle part"][:, :, 0] = one["norm part"][:, :, 0] = 0
    fields = {n: np.broadcast_to(v, shape).copy() for n, v in one.items()} | {"cka": np.ones((6, 5, 5))}
    return Measured(fields | moved, CONDITIONS, labels)


def test_the_parts_sum_to_the_change_of_margin_and_are_each_nothing_alone():
    g = torch.Generator().manual_seed(0)
    weight, bias, y = (
        torch.randn(4, 6, generator=g).double(),
        torch.randn(4, generator=g).double(),
        torch.arange(20) % 4,
    )
    features = torch.randn(20, 6, generator=g).double()
    clean = Geometry(features, weight, bias, y)
    other = Geometry(torch.randn(20, 6, generator=g).double(), weight, bias, y)
    angle, norm = parts(other, clean)
    assert torch.allclose(angle + norm, other.margin - clean.margin)
    longer = Geometry(2.5 * features, weight, bias, y)
    angle, norm = parts(longer, clean)
    assert torch.allclose(angle, torch.zeros(20).double(), atol=1e-12)
    assert torch.allclose(norm, longer.margin - clean.margin)
    turned = other.with_norms(clean.norms)
    assert torch.allclose(parts(turned, clean)[1], torch.zeros(20).double(), atol=1e-12)


def test_two_copies_shift_alike_and_correlate_by_one():
    task, model = find.task("digits", None, "digits_cnn"), find.network("digits_cnn", None, 0)
    ours, clean = measure(model, task, SUITE[:2], (3,))  # pyright: ignore[reportArgumentType]
    theirs, _ = measure(copy.deepcopy(model), task, SUITE[:2], (3,))  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(ours[n], theirs[n]) for n in FIELDS)
    assert ours["angle"].shape == (3, 360)
    assert torch.allclose(ours["margin"][0], clean.margin.float())
    assert not ours["angle part"][0].any()
    moved = ours["angle part"] + ours["norm part"]
    assert torch.allclose(moved, ours["margin"] - ours["margin"][:1], atol=1e-4)


def test_equal_methods_are_no_better_and_one_cluster():
    found = planted()
    rows = robustness(found)
    assert all(r["gain"] == r["low"] == r["high"] == 0 for r in rows)
    assert said(rows, 0.95)[1] is None
    tables, figures = views(found, find.task("digits", None, "digits_cnn"), 4)  # pyright: ignore[reportArgumentType]
    alike = tables["like methods"]
    assert all(r[f"with {m}"] == pytest.approx(1) for r in alike for m in METHODS)
    assert len(tables["fragile and robust samples"]) == 100
    assert len(tables["methods and corruptions"]) == len(METHODS) * len(CONDITIONS)
    assert [f.title for f in figures][-2:] == ["Which methods are alike", "Which corruptions are alike"]
    assert any(f.title == "The most fragile samples" for f in figures)


def test_a_planted_gain_through_angles_is_found_and_one_through_norms_is_not_called_so():
    right = planted()["right"].copy()
    right[:, :, 1:, :100] = 0
    right[:, 2, 1:, :100] = 1  # lottery withstands on 100 samples
    more = planted()["angle part"].copy()
    more[:, 2, 1:] += 0.5
    rows = robustness(planted(**{"right": right, "angle part": more}))
    gained = rows[METHODS.index("lottery")]
    assert gained["gain"] == pytest.approx(100 * 100 / 360)
    assert gained["low"] > 0
    assert gained["gain by angle"] == pytest.approx(50, rel=0.05)
    assert gained["gain by norm"] == pytest.approx(0)
    text, holds = said(rows, 0.95)
    assert holds is True
    assert "lottery" in text
    assert said(robustness(planted(**{"right": right, "norm part": more})), 0.95)[1] is False
    worse = right.copy()
    worse[:, 1:, 1:, :200] = 0
    worse[:, 0, 1:, :200] = 1
    assert said(robustness(planted(right=worse)), 0.95)[1] is False


def test_flips_are_counted_and_the_like_are_put_together():
    right = np.ones_like(planted()["right"])
    right[:, 0, 1:, :36] = 0  # a tenth flips by corruption
    right[:, 1, 0, 36:54] = 0  # a twentieth by pruning with `magnitude`
    right[:, 2, 1:, 100:118] = 0  # a twentieth only by both, with `lottery`
    chance = np.random.default_rng(1)
    angle = planted()["angle"].copy()
    shared = chance.normal(size=(6, len(CONDITIONS), 360))
    for i in (3, 4):
        angle[:, i] = shared
    tables, _ = views(planted(right=right, angle=angle), find.task("digits", None, "digits_cnn"), 4)  # pyright: ignore
    flips = {r["method"]: r for r in tables["flips"]}
    assert flips["magnitude"]["flips by corruption"] == pytest.approx(10)
    assert flips["magnitude"]["flips by pruning"] == pytest.approx(5)
    assert flips["lottery"]["flips by both together"] == pytest.approx(5)
    kinds = [k for k in flips["snip"] if k != "method"]
    assert all(sum(r[k] for k in kinds) == pytest.approx(100) for r in flips.values())
    cluster = {r["method"]: r["cluster of 3"] for r in tables["like methods"]}
    assert cluster["snip"] == cluster["random"] != cluster["dense"] == cluster["magnitude"] == cluster["lottery"]


def test_a_small_study_runs_is_kept_and_is_read_again(tmp_path, monkeypatch):
    study = RobustnessLotteryVis(seeds=2, epochs=0.3, rounds=1, severities=(3,))
    found = study(tmp_path / "study")
    found.write(tmp_path / "finding.json")
    assert Finding.read(tmp_path / "finding.json").verdict == found.verdict
    assert not np.isnan([r["gain"] for r in found.tables["robustness"]]).any()
    assert json.loads((tmp_path / "finding.json").read_text())["tables"]["flips"]
    monkeypatch.setattr("resprout.studies.robustness_lottery_vis.train", None)  # nothing is trained again
    assert study(tmp_path / "study").tables == found.tables


def test_bad_input_is_named():
    with pytest.raises(ResproutError, match="severities are some of"):
        RobustnessLotteryVis(severities=(9,))
    with pytest.raises(ResproutError, match="sparsity"):
        RobustnessLotteryVis(sparsity=95)
    with pytest.raises(ResproutError, match="two seeds"):
        RobustnessLotteryVis(seeds=1)
