"""Random pruning: densities by hand, coins within three sigma, and the trend with the width."""

import json
import math

import pytest
import torch
from scipy.stats import spearmanr

from resprout import find
from resprout.core.errors import ResproutError
from resprout.core.granularity import Weight
from resprout.core.kinds import Scores
from resprout.core.masks import Masks
from resprout.methods.allocate.er import Er
from resprout.methods.allocate.erk import Erk
from resprout.methods.allocate.erk_plus import ErkPlus
from resprout.studies.random_pruning import RandomPruning, attacked, falling, perceptron, random_masks, spearman, tossed

SMALL = RandomPruning(widths=(4, 8, 16), densities=("erk", "uniform"), epochs=1, seeds=2)


def scores(**shapes):
    g = torch.Generator().manual_seed(0)
    return Scores({n: torch.rand(s, generator=g) for n, s in shapes.items()})


def test_two_linear_layers_by_hand():
    """10x10 and 1000x10: p = eps * (20 / 100, 1010 / 10,000), so that all weights are eps * 20 + eps * 1010."""
    given = scores(a=(10, 10), b=(1000, 10))
    for density in (0.01, 0.03, 0.05):
        keep = round(density * 10_100)
        eps = keep / 1030
        counts = Weight().choose(given, keep, Er()).counts
        assert counts["a"] == pytest.approx(20 * eps, abs=1)
        assert counts["b"] == pytest.approx(1010 * eps, abs=1)
        assert counts == Weight().choose(given, keep, Erk()).counts  # without kernels
    full = Weight().choose(given, 6060, Er()).counts  # eps 5.88 makes the first p 1.18: it becomes dense
    assert full == {"a": 100, "b": 5960}


def test_erk_plus_keeps_the_last_linear_layer_dense_and_the_budget():
    given = scores(conv=(8, 4, 3, 3), more=(16, 8, 3, 3), last=(10, 16))
    counts = Weight().choose(given, 400, ErkPlus()).counts
    assert counts["last"] == 160
    assert sum(counts.values()) == 400
    assert counts["conv"] / counts["more"] == pytest.approx((8 + 4 + 6) / (16 + 8 + 6), abs=0.01)
    with pytest.raises(ResproutError, match="last dense"):
        Weight().choose(given, 150, ErkPlus())


@pytest.mark.parametrize("way", ["erk", "er", "uniform", "uniform_plus", "erk_plus", "snip", "grasp"])
@pytest.mark.parametrize("exact", [True, False])
def test_densities_sum_to_the_one_asked_for(way, exact):
    task = find.task("digits", None, "")
    torch.manual_seed(0)
    model = perceptron(64, 2, 64, 10)
    before = [p.clone() for p in model.parameters()]
    masks = random_masks(model, task, 0.8, way, 0, exact)
    sigma = math.sqrt(masks.total * 0.2 * 0.8)  # of equal densities, which is the most there can be
    assert masks.alive == pytest.approx(0.2 * masks.total, abs=0.5 if exact else 3 * sigma)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert masks == random_masks(model, task, 0.8, way, 0, exact) != random_masks(model, task, 0.8, way, 1, exact)


def test_coins_are_tossed_independently():
    like = Masks({"a": torch.ones(100, 200, dtype=torch.bool), "b": torch.ones(50, 50, dtype=torch.bool)})
    masks = tossed(like, {"a": 0.1, "b": 1.0}, seed=3)
    assert masks.counts["a"] == pytest.approx(2000, abs=3 * math.sqrt(20000 * 0.1 * 0.9))
    assert masks.counts["b"] == 2500
    rows = masks["a"].sum(1).double()
    assert float(rows.var()) == pytest.approx(200 * 0.1 * 0.9, rel=0.5)  # of exact counts a row it would be zero


def test_scores_give_layers_only():
    """SNIP says how many, chance says which."""
    task = find.task("digits", None, "")
    torch.manual_seed(0)
    model = perceptron(64, 1, 32, 10)
    a, b = (random_masks(model, task, 0.8, "snip", seed, True) for seed in (0, 1))
    assert a != b
    assert a.counts["3.weight"] / a.sizes["3.weight"] > 2 * a.counts["1.weight"] / a.sizes["1.weight"]


def test_rank_correlation():
    x, y = [1, 2, 3, 4, 5], [9.0, 7.0, 8.0, 3.0, 1.0]
    assert spearman(x, y) == pytest.approx(1 - 6 * (4**2 + 1 + 1 + 2**2 + 4**2) / (5 * 24))  # ranks of y: 5, 3, 4, 2, 1
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(x, [1, 1, 1, 1, 1]) == 0
    trend = falling(x, [y, y, y])
    assert trend.mean == trend.low == trend.high == pytest.approx(spearman(x, y))


def test_an_attack_does_harm():
    task = find.task("digits", None, "")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert attacked(model, task, 0.5) <= attacked(model, task, 0.0)
    assert attacked(model, task, 0.0) == pytest.approx(task.evaluate(model, "test")["accuracy"])


def test_it_runs_goes_on_and_says_what_its_tables_hold(tmp_path, monkeypatch):
    told = []
    found = SMALL(tmp_path, lambda what, share: told.append(share))
    assert len(list((tmp_path / "networks").glob("*.json"))) == len(told) == 2 * 3 * 3
    monkeypatch.setattr("resprout.studies.random_pruning.train", None)  # nothing is trained again
    again = SMALL(tmp_path)
    assert (again.verdict, again.tables) == (found.verdict, found.tables)
    json.dumps(found.tables, allow_nan=False)
    rows, line = found.tables["Networks"], found.tables["Gap to the dense network"][0]
    mean = {w: sum(r["test"] for r in rows if r["width"] == 4 and r["way"] == w) / 2 for w in ("dense", "erk")}
    assert line["gap"] == pytest.approx(100 * (mean["dense"] - mean["erk"]))
    assert f"{line['gap']:.1f} points at width 4" in found.verdict
    trend = found.tables["Trend with the width"][0]
    assert found.holds is (None if trend["low"] <= 0 <= trend["high"] else trend["high"] < 0)


def test_widths_of_a_network_are_shares_of_its_channels(tmp_path):
    study = RandomPruning(model="digits_cnn", widths=(0.1, 0.15, 0.2), densities=("erk",), epochs=0.1, seeds=1)
    rows = study(tmp_path).tables["Networks"]
    weights = {r["width"]: r["weights"] for r in rows}
    assert 0.005 * 97_568 < weights[0.1] < weights[0.15] < weights[0.2] < 0.1 * 97_568


@pytest.mark.parametrize(
    ("study", "what"),
    [
        (RandomPruning(widths=(8, 16)), "three rising widths"),
        (RandomPruning(widths=(16, 8, 32)), "three rising widths"),
        (RandomPruning(seeds=0), "a seed"),
        (RandomPruning(densities=("erkk",)), "erk"),
        (RandomPruning(densities=()), "densities="),
        (RandomPruning(sparsity=80), "0.8"),
    ],
)
def test_bad_settings_are_named(study, what, tmp_path):
    with pytest.raises(ResproutError, match=what):
        study(tmp_path)


@pytest.mark.slow
def test_the_gap_closes_with_the_width(tmp_path):
    """The catalogue's check, full size."""
    found = RandomPruning(densities=("erk",), seeds=3)(tmp_path)
    assert found.tables["Trend with the width"][0]["spearman of the means"] < -0.8
