"""Global magnitude: exact counts, collapse and the minimum threshold, against a plain loop; and a whole small study."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import resprout as rs
from resprout import find
from resprout.compare.statistics import Difference
from resprout.core.errors import LayerDied, ResproutError
from resprout.core.granularity import Weight
from resprout.core.kinds import Scores
from resprout.core.masks import Masks, prunable
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.global_min import GlobalMin
from resprout.models import build
from resprout.studies.global_mp import GlobalMp, emptied, gap, holds, made_small, second

NET = """
from torch import nn

def net():
    first = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("resprout.compare.engine.LOOK_EVERY", 0.01)


def lopsided(factor: float = 1e-3) -> nn.Sequential:
    """60 x 40, 40 x 30 and 30 x 10, the weights of the second small."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10))
    with torch.no_grad():
        model[2].weight.mul_(factor)
    return model


def by_loop(weights: dict[str, np.ndarray], keep: int, least: float) -> dict[str, np.ndarray]:
    """The minimum threshold in plain numpy: the largest few of each layer, then the largest of the rest."""
    flat = {n: np.abs(w).ravel() for n, w in weights.items()}
    mask = {n: np.zeros(x.size, bool) for n, x in flat.items()}
    for n, x in flat.items():
        mask[n][np.argsort(-x, kind="stable")[: math.ceil(least * x.size)]] = True
    rest = sorted(((x, n, i) for n, v in flat.items() for i, x in enumerate(v) if not mask[n][i]), reverse=True)
    for _, n, i in rest[: keep - sum(int(m.sum()) for m in mask.values())]:
        mask[n][i] = True
    return {n: m.reshape(weights[n].shape) for n, m in mask.items()}


@pytest.mark.parametrize("kappa", [0.1, 0.5, 0.77, 0.9, 0.99])
@pytest.mark.parametrize("allocate", ["global", "global_min"])
def test_the_global_count_is_exact(kappa, allocate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayerDied)
        masks = rs.prune(lopsided(), kappa, allocate=allocate)
    assert abs((masks.total - masks.alive) - math.floor(kappa * masks.total)) <= 1  # rounded, not cut off


def test_plain_ranking_empties_a_layer_and_the_threshold_does_not():
    with pytest.warns(LayerDied, match=r"2\.weight"):
        assert rs.prune(lopsided(), 0.9).counts["2.weight"] == 0
    model = lopsided()
    weights = {n: p.detach().clone() for n, p in prunable(model).items()}
    masks = rs.prune(model, 0.9, allocate=GlobalMin(0.01))
    assert masks.counts["2.weight"] == 12  # 1 % of 1,200
    assert masks.alive == 390
    kept = weights["2.weight"].abs()[masks["2.weight"]]
    assert float(kept.min()) >= float(weights["2.weight"].abs()[~masks["2.weight"]].max())


@pytest.mark.parametrize("least", [0.0, 0.0005, 0.01, 0.05])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.94])
def test_the_threshold_is_that_of_a_plain_loop(least, sparsity):
    model = lopsided()
    weights = {n: p.detach().numpy().copy() for n, p in prunable(model).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayerDied)
        masks = rs.prune(model, sparsity, allocate=GlobalMin(least))
    wanted = by_loop(weights, masks.alive, least)
    assert all(np.array_equal(masks[n].numpy(), wanted[n]) for n in masks)


def test_without_need_the_threshold_changes_nothing():
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10))
    scores = Scores({n: p.detach().abs() for n, p in prunable(model).items()})
    assert Weight().choose(scores, 300, GlobalMin()) == Weight().choose(scores, 300, Global())


def test_a_threshold_that_costs_too_much_is_cut_in_proportion():
    given = Scores({"a": torch.rand(100), "b": torch.rand(300)})
    assert Weight().choose(given, 20, GlobalMin(0.1)).counts == {"a": 5, "b": 15}
    with pytest.raises(ResproutError, match="least"):
        GlobalMin(5)


def test_prices_are_kept():
    """A weight of the dear layer is bought for its floor only, where the cheap ones are worth as much."""
    given = Scores({"dear": torch.full((100,), 1.0), "cheap": torch.full((100,), 1.0)}, order=2)
    wishes = GlobalMin(0.03)(given, {"dear": 10.0, "cheap": 1.0}, 80.0)
    assert dict(wishes) == {"dear": 3, "cheap": 50}


def test_small_weights_compute_the_same():
    torch.manual_seed(0)
    model = build("digits_cnn")
    x = torch.randn(64, 1, 8, 8)
    model(x), model.eval()  # statistics that are not 0 and 1
    layer = second(model)
    assert layer == "3.weight"
    small = made_small(model, layer, 0.03)
    assert torch.allclose(small(x), model(x), atol=1e-4)
    assert torch.allclose(small.get_parameter(layer), 0.03 * model.get_parameter(layer))
    for wrong in ("10.weight", "11.weight"):
        with pytest.raises(ResproutError, match="layer="):
            made_small(model, wrong, 0.03)
    with pytest.raises(ResproutError, match="no two layers"):
        second(lopsided())


def test_emptied_layers_are_counted():
    assert emptied(Masks({"a": torch.zeros(3, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)})) == 1


def test_differences_and_what_they_mean():
    rows = [
        {"arm": a, "seed": s, "test": t} for a, tests in (("g", (0.9, 0.8, 0.7, 0.8)), ("o", (0.8, 0.8, 0.6, 0.5)))
        for s, t in zip((0, 0, 1, 1), tests, strict=True)
    ]  # fmt: skip
    assert gap(rows, "g", "o", 0.95).mean == pytest.approx((5 + 20) / 2)
    win, loss, draw, one = (
        Difference(m, lo, hi, n) for m, lo, hi, n in ((2, 1, 3, 5), (-2, -3, -1, 5), (0, -1, 1, 5), (2, 2, 2, 1))
    )
    assert holds([win, win]) is True
    assert holds([win, loss, draw]) is False
    assert holds([win, draw]) is holds([one]) is None


def test_it_runs_goes_on_and_says_what_its_tables_hold(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    study = GlobalMp(
        model=f"{tmp_path / 'net.py'}:net", others=("uniform", "gmp"), sparsity=(0.8,), epochs=0.3, dense_epochs=1,
        seeds=2, cures=("global_min",), factor=0.02, collapse=0.8,
    )  # fmt: skip
    shares: list[float] = []
    found = study(tmp_path / "s", lambda what, share: shares.append(share))
    assert shares == sorted(shares)
    json.dumps(found.tables, allow_nan=False)
    lines = {line["method"]: line for line in found.tables["At each sparsity"]}
    assert list(lines) == ["global", "uniform", "gmp"]
    assert len({line["steps"] for line in lines.values()}) == 1
    first = found.tables["Global magnitude against others"][0]
    assert first["global - it"] == pytest.approx(lines["global"]["test %"] - lines["uniform"]["test %"])
    assert f"{first['global - it']:+.2f}" in found.verdict
    cuts = {line["allocation"]: line for line in found.tables["A layer of small weights"]}
    assert (cuts["global"]["alive in it"], cuts["global"]["layers emptied"]) == (0, 1)
    assert cuts["global_min"]["alive in it"] == 1 == math.ceil(0.0005 * 576)
    assert all(c["validation"] == pytest.approx(c["validation, small"], abs=0.01) for c in cuts.values())
    monkeypatch.setattr("resprout.compare.run.fit", None)  # nothing is trained again
    monkeypatch.setattr(GlobalMp, "_cut", None)
    again = study(tmp_path / "s")
    assert (again.verdict, again.tables) == (found.verdict, found.tables)


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ResproutError, match="others="):
        GlobalMp(others=())(tmp_path)
    with pytest.raises(ResproutError, match="lampp"):
        GlobalMp(others=("lampp",))(tmp_path)


@pytest.mark.slow
def test_at_95_percent_global_beats_uniform(tmp_path):
    """The catalogue's check, on digits."""
    found = GlobalMp(others=("uniform",), sparsity=(0.95, 0.98))(tmp_path)
    line = found.tables["Global magnitude against others"][0]
    assert line["low"] > 0
    assert find.method("study", "global_mp") == GlobalMp()
