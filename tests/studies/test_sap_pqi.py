import math

import pytest
from torch import nn

from resprout.core.errors import ResproutError
from resprout.studies import sap_pqi
from resprout.studies._study import Finding
from resprout.studies.sap_pqi import RIVALS, WALKS, SapPqi


def walked(test: float, sparsity: float, steps: int, index=(), samples: int = 200) -> dict:
    right = [1] * round(test * samples) + [0] * (samples - round(test * samples))
    rounds = [(1.0, 0.5, 0.95), (0.5, 0.4, 0.94), (0.2, None, 0.8)]
    facts = {"sparsity": sparsity, "test": test, "right": right, "dense test": 0.95, "dense validation": 0.95}
    return facts | {"steps": steps, "rounds": [(d, i, v) for d, i, v in index or rounds]}


def paths(tickets: list[float], once: list[float], steps: int = 50) -> list[dict]:
    found = []
    for a, b in zip(tickets, once, strict=True):
        ends = [walked(0.9, 0.99, 100), walked(0.95, 0.9, steps), walked(a, 0.9, steps), walked(b, 0.9, steps)]
        found.append(dict(zip(WALKS, ends, strict=True)))
    return found


def small() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def test_it_runs_and_is_taken_up_again(tmp_path, monkeypatch):
    study, told = SapPqi(model=f"{__file__}:small", seeds=1, rounds=2, epochs=1), []
    found = study(tmp_path, lambda what, share: told.append(share))
    assert told == sorted(told)
    ends = found.tables["Where the paths end"]
    assert [r["arm"] for r in ends] == ["sap", *RIVALS]
    assert len({r["steps"] for r in ends}) == 1, "equal steps"
    assert len({round(r["density"], 4) for r in ends}) == 1, "equal sparsity"
    index = found.tables["The index over the rounds"]
    assert [r["round"] for r in index] == [0, 1, 2]
    assert index[0]["density"] == 1
    assert 0 < index[1]["PQ index"] < 1
    assert "1 seed" in found.verdict
    assert found.holds is None
    found.write(tmp_path / "finding.json")
    assert Finding.read(tmp_path / "finding.json").verdict == found.verdict
    monkeypatch.setattr(sap_pqi, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert study(tmp_path).tables == found.tables


def test_the_verdict_follows_the_intervals():
    found = SapPqi(seeds=3)._found(paths([0.7, 0.72, 0.68], [0.5, 0.52, 0.48]))
    assert found.holds is True
    assert "3 of 3 seeds" in found.verdict
    assert "+25.00 [" in found.verdict
    assert SapPqi(seeds=3)._found(paths([0.95, 0.95, 0.95], [0.5, 0.52, 0.48])).holds is None
    better = [1.0, 1.0, 1.0]
    assert SapPqi(seeds=3)._found(paths(better, [0.5, 0.52, 0.48])).holds is False
    never = SapPqi(seeds=3)._found(paths([0.7, 0.72, 0.68], [0.5, 0.52, 0.48], steps=100))
    assert never.holds is None, "it never stopped by itself"
    assert "0 of 3" in never.verdict


def test_the_least_density_that_is_as_good_as_dense():
    table = SapPqi(seeds=1)._found(paths([0.9], [0.9])).tables
    row = table["Least density within 2 points of dense on validation data"][0]
    assert row["sap"] == 0.5
    assert math.isclose(SapPqi(tolerance=0.2)._within(walked(0.9, 0.9, 1)) or 0, 0.2)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"rounds": 1}, "rounds"), ({"seeds": 0}, "seeds"), ({"p": 3.0}, "p"), ({"scope": "row"}, "scope")],
)
def test_bad_settings_are_named(given, says):
    with pytest.raises(ResproutError, match=says):
        SapPqi(**given)
