import json

import numpy as np
import pytest
import torch
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.store import save_tensors
from resprout.evaluate.sqnr import best_scale, pruning_sqnr, quantiser_sqnr
from resprout.studies import prune_vs_quant
from resprout.studies.prune_vs_quant import PruneVsQuant, _piece, advise


def test_advice_for_light_and_heavy_tails():
    draw = np.random.default_rng(0)
    weights = {
        "light": torch.from_numpy(draw.normal(size=20_000)),
        "heavy": torch.from_numpy(draw.standard_t(2.2, size=20_000)),
    }
    light, heavy = advise(weights)
    assert light["crossover"] is None
    assert light["winner"] == "rounding"
    assert light["kurtosis"] == pytest.approx(3, abs=0.1)
    assert light["pruning, 4 bits"] == pytest.approx(pruning_sqnr(weights["light"], 0.75))
    assert light["rounding, 4 bits"] == pytest.approx(quantiser_sqnr(weights["light"], 4))
    assert heavy["kurtosis"] > 50
    assert heavy["crossover"] is not None
    assert heavy["winner"].startswith("pruning")


def test_no_piece_is_better_than_the_best():
    draw = np.random.default_rng(0)
    for _ in range(10):
        x, w = draw.normal(size=(30, 8)) @ draw.normal(size=(8, 8)), draw.normal(size=8)
        for row in _piece(x.T @ x, w, {b: best_scale(torch.from_numpy(w), b) for b in (2, 4)}):
            assert row["best mask"] >= row["magnitude"] - 1e-9
            assert row["best rounding"] >= row["nearest"] - 1e-9
    dead = _piece(np.zeros((8, 8)), np.ones(8), {4: 0.1})
    assert dead == [{"bits": 4, "best mask": 0, "magnitude": 0, "best rounding": 0, "nearest": 0}]


def small() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def test_it_runs_and_is_taken_up_again(tmp_path, monkeypatch):
    model = f"{__file__}:small"
    study = PruneVsQuant(model=model, seeds=2, problems=2, bits=(2, 8), dense_epochs=2, epochs=1)
    found = study(tmp_path)
    assert [r["tensor"] for r in found.tables["Advice for each tensor (seed 0)"]] == ["1.weight", "3.weight"]
    assert [r["bits"] for r in found.tables["Exact least errors of pieces of layers"]] == [2, 8]
    networks = found.tables["Whole networks"]
    assert [(r["bits"], r["sparsity"]) for r in networks[:2]] == [(8, 0.5), (4, 0.75)]
    arms = {r["arm"] for r in networks}
    assert arms == {
        "gradual pruning", "integers after as much training", "one cut, no training", "integers, no training"
    }  # fmt: skip
    assert all(0 < r["test %"] <= 100 and r["bytes of the file"] > 100 for r in networks)
    assert "2 seeds" in found.verdict
    assert "NaN" not in json.dumps([found.tables, found.verdict])
    assert "Infinity" not in json.dumps(found.tables)
    for name in ("train", "fit"):
        monkeypatch.setattr(prune_vs_quant, name, lambda *a, **k: pytest.fail("trained again"))
    assert study(tmp_path).tables == found.tables


def test_the_adviser_needs_weights_and_no_data(tmp_path):
    torch.manual_seed(0)
    save_tensors(tmp_path / "net.safetensors", small().state_dict(), {})
    study = PruneVsQuant(
        task="cifar10",
        model=f"{__file__}:small",
        weights=str(tmp_path / "net.safetensors"),
        levels=("weight",),
        seeds=1,
    )
    found = study(tmp_path)
    assert len(found.tables["Advice for each tensor (seed 0)"]) == 2
    assert "Whole networks" not in found.tables
    assert found.tables["Distributions"][0]["pruning, 4 bits"] == pytest.approx(5.58, abs=0.005)
    assert found.tables["Distributions"][-1]["crossover"] == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"levels": ("layers",)}, "layer"),
        ({"levels": ()}, "levels"),
        ({"bits": (8, 4)}, "bits"),
        ({"bits": (1, 4)}, "bits"),
        ({"size": 6}, "size"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_bad_settings_are_named(given, says):
    with pytest.raises(ResproutError, match=says):
        PruneVsQuant(**given)
