import numpy as np
import pytest

from resprout.core.errors import ResproutError
from resprout.studies import three_regime
from resprout.studies.three_regime import HOTTER, ThreeRegime


def cell(seed: int, epochs: float, density: float, mc: float, test: float, cka: float = 0.95) -> dict:
    right = (np.arange(100) < round(100 * test)).astype(int).tolist()
    facts = {"seed": seed, "epochs": epochs, "density": density, "mc": mc, "cka": cka, "test": [test, test]}
    return facts | {"validation": [test, test], "right": [right, right]}


def published(study: ThreeRegime, noise: float = 0.01) -> list[dict]:
    """At low density long training ends behind a barrier and short training is better; at high density the other way."""
    cells = []
    for seed in range(study.seeds):
        for i, e in enumerate(study.epochs):
            for d in study.densities:
                sparse = d < 0.1
                mc = -0.1 * i if sparse else 0.01
                cells.append(cell(seed, e, d, mc, (0.8 - 0.1 * i if sparse else 0.8 + 0.05 * i) + noise * seed))
    return cells


def test_the_rule_finds_the_best_where_the_world_is_as_published():
    study = ThreeRegime(seeds=3)
    found = study._found(published(study))
    rows = found.tables["What the rule says"]
    assert [r["direction"] for r in rows] == [HOTTER, HOTTER, "as long or longer", "as long or longer"]
    assert [r["recommended epochs"] for r in rows] == ["2 (3x)", "2 (3x)", "32 (3x)", "32 (3x)"]
    assert [r["best epochs"] for r in rows] == [r["recommended epochs"] for r in rows]
    assert [r["regime"] for r in rows] == ["I", "I", "II-B", "II-B"]
    assert [r["gain"] for r in rows] == pytest.approx([20, 20, 0, 0])
    assert [r["regret"] for r in rows] == pytest.approx([0, 0, 0, 0])
    assert found.holds is True
    assert "+10.00 [" in found.verdict
    mc, cka, accuracy = (np.array(f.traces[0]["z"]) for f in found.figures)
    assert mc.shape == cka.shape == accuracy.shape == (3, 4)
    assert mc[2].tolist() == pytest.approx([-0.2, -0.2, 0.01, 0.01])
    assert accuracy[0, 0] == pytest.approx(81)


def test_without_barriers_nothing_is_decided():
    study = ThreeRegime(seeds=3)
    found = study._found([c | {"mc": 0.0} for c in published(study)])
    assert found.holds is None
    rows = found.tables["What the rule says"]
    assert [r["regret"] for r in rows] == pytest.approx([20, 20, 0, 0])  # what the rule does not see is said


def test_a_rule_that_misleads_does_not_hold():
    study = ThreeRegime(seeds=3)
    misled = [c | {"mc": -c["mc"] if c["density"] < 0.1 else -0.2} for c in published(study)]
    assert study._found(misled).holds is False


def test_regimes():
    study = ThreeRegime()
    assert [study.regime(*p) for p in ((-0.06, 0.5), (-0.04, 0.5), (0.1, 0.95))] == ["I", "II-A", "II-B"]
    cells = [cell(0, e, 0.1, mc, 0.5) for e, mc in ((1, -0.2), (2, 0.0), (4, -0.2))]
    assert study._recommended(cells)["epochs"] == 2
    assert study._recommended([cells[0], cells[2]])["epochs"] == 1


def test_it_runs_and_is_taken_up_again(tmp_path, monkeypatch):
    study, told = ThreeRegime(seeds=1, epochs=(1, 2), densities=(0.1, 0.5), retrain=1, points=3), []
    found = study(tmp_path, lambda what, share: told.append(share))
    grid = found.tables["Grid"]
    assert [(r["epochs"], r["density"]) for r in grid] == [(1, 0.1), (1, 0.5), (2, 0.1), (2, 0.5)]
    assert all(abs(r["mc"]) <= 1 and 0 <= r["CKA"] <= 1 and r["std"] is None for r in grid)
    assert grid[-1]["test %"] > 50
    assert (found.holds, told[0], len(told)) == (None, 0.0, 4)
    assert len(list((tmp_path / "dense").iterdir())) == 2, "dense networks are trained once"
    monkeypatch.setattr(three_regime, "train", lambda *a, **k: pytest.fail("trained again"))
    assert study(tmp_path).tables == found.tables


@pytest.mark.slow
def test_the_check_of_the_catalogue(tmp_path):
    """Three numbers of epochs by four densities of a digits perceptron: heat map, directions, and a cell near the best."""
    found = ThreeRegime(seeds=2)(tmp_path)
    assert np.array(found.figures[0].traces[0]["z"]).shape == (3, 4)
    rows, grid = found.tables["What the rule says"], found.tables["Grid"]
    assert all(r["direction"] for r in rows)
    best = max(grid, key=lambda r: r["test %"])
    row = next(r for r in rows if r["density"] == best["density"])
    assert row["regret"] <= 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": (8, 2)}, "epochs"),
        ({"densities": (0.1,)}, "densities"),
        ({"densities": (0.1, 10)}, "densities"),
        ({"split": "dev"}, "split"),
        ({"retrain": 0}, "retrain"),
    ],
)
def test_bad_settings_are_named(given, says):
    with pytest.raises(ResproutError, match=says):
        ThreeRegime(**given)
