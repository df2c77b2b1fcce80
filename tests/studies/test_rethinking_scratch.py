"""Rethinking: the arithmetic of epochs, weights that are really new, words that follow the interval, and a whole small study."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import resprout as rs
from resprout import find
from resprout.compare import compare
from resprout.compare.control import narrowed, rescaled, start
from resprout.compare.here import Here
from resprout.compare.statistics import Difference, paired
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks, prunable
from resprout.studies.rethinking_scratch import RethinkingScratch, architecture, matches, pooled, verdict_on, worth_it

NET = """
from torch import nn

def net():
    first = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 10))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("resprout.compare.engine.LOOK_EVERY", 0.01)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("net") / "net.py"
    file.write_text(NET)
    return f"{file}:net"


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> tuple[nn.Module, Path]:
    """A network with exactly half of the weights of each layer, and so of its multiply-adds, and its file."""
    torch.manual_seed(0)
    model, file = mlp(), tmp_path_factory.mktemp("half") / "half.safetensors"
    masks = rs.prune(model, 0.5, allocate="uniform")
    rs.save(file, model, masks)
    return model, file


def test_half_the_multiply_adds_get_twice_the_epochs_and_the_cap_holds(half):
    task = find.task("digits", None, "")
    assert start("scratch_compute", mlp(), half[1], task, 4.0, 0).times == 2.0
    capped = start("scratch_compute", mlp(), half[1], task, 1.5, 0)
    assert capped.times == 1.5
    assert "2 would be equal" in capped.note
    assert start("scratch", mlp(), half[1], task, 4.0, 0).times == 1.0


@pytest.mark.parametrize("control", ["scratch", "scratch_compute", "shuffled", "small"])
def test_no_weight_is_one_of_the_pruned_network(control, half):
    torch.manual_seed(1)
    begun = start(control, mlp(), half[1], find.task("digits", None, ""), 4.0, 0)
    old = {float(v) for w in prunable(half[0]).values() for v in w.detach().flatten() if v != 0}
    new = {float(v) for w in prunable(begun.model).values() for v in w.detach().flatten()}
    assert len(new) > 1000
    assert not old & new


def test_a_narrow_network_begins_at_the_scale_of_its_own_width():
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))
    kept = {n: p.clone() for n, p in wide.named_parameters()}
    small = narrowed(wide, 0.75, torch.randn(1, 64), 0)
    assert all(torch.equal(p, kept[n]) for n, p in wide.named_parameters())
    assert [tuple(p.shape) for p in prunable(small).values()] == [(100, 64), (100, 100), (10, 100)]
    for weight in prunable(small).values():  # PyTorch's: uniform within 1 / sqrt(inputs)
        assert float(weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * weight.shape[1]), rel=0.05)
        assert float(weight.detach().abs().max()) <= 1 / math.sqrt(weight.shape[1]) + 1e-6
    shapes = {n: p.shape for n, p in prunable(wide).items()}
    assert torch.equal(rescaled(wide, shapes)[2].weight, kept["2.weight"])


def test_the_small_control_fits_and_leaves_the_network_as_it_was(half):
    torch.manual_seed(2)
    model = mlp()
    before = {n: p.clone() for n, p in model.named_parameters()}
    begun = start("small", model, half[1], find.task("digits", None, ""), 4.0, 0)
    assert 0.9 * 1696 < Masks.dense(begun.model).total <= 1696  # half of 3,392
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(bool((w != 0).all()) for w in prunable(begun.model).values())


def test_shuffled_channels_are_said_to_be_scratch(tmp_path):
    torch.manual_seed(0)
    model, example = mlp(), torch.randn(1, 1, 8, 8)
    masks = rs.prune(model, 0.5, allocate="uniform", granularity="channel", example=example)
    small = rs.shrink(model, masks, example)
    rs.save(tmp_path / "small.safetensors", small)
    begun = start("shuffled", mlp(), tmp_path / "small.safetensors", find.task("digits", None, ""), 4.0, 0)
    assert "the same as scratch" in begun.note
    assert Masks.dense(begun.model).total == Masks.dense(small).total


@pytest.mark.parametrize(
    ("gap", "words", "match"),
    [
        (Difference(2.0, 1.5, 2.5, 5), "yes", False),
        (Difference(0.5, 0.2, 0.8, 5), "yes, by less than 1 points", True),
        (Difference(-1.0, -2.0, -0.1, 5), "no: scratch is better", True),
        (Difference(0.1, -0.5, 0.7, 5), "no: scratch is as good", True),
        (Difference(0.5, -2.0, 3.0, 5), "not decided", None),
        (Difference(9.0, 8.0, 10.0, 1), "one seed does not say", None),
    ],
)
def test_words_follow_the_interval(gap, words, match):
    assert worth_it(gap, 1.0) == words
    assert matches(gap, 1.0) is match


def rows(**tests):
    return [
        {"arm": arm, "asked": "0.5", "seed": s, "test": t, "kind": "recipe", "note": ""}
        for arm, values in tests.items()
        for s, t in enumerate(values)
    ]


def test_differences_by_hand():
    found = rows(a=[0.9, 0.8, 0.7], b=[0.5, 0.5, 0.5])
    found += [r | {"arm": f"scratch({r['arm']})"} for r in rows(a=[0.8, 0.8, 0.8], b=[0.4, 0.5, 0.9])]
    found += [r | {"arm": f"scratch_compute({r['arm']})"} for r in rows(a=[0.8, 0.7, 0.6], b=[0.4, 0.5, 0.9])]
    assert pooled(found, [("a", "0.5")], "scratch").mean == pytest.approx(0)
    both = pooled(found, [("a", "0.5"), ("b", "0.5")], "scratch")  # of each seed: 70 - 60, 65 - 65, 60 - 85
    assert (both.mean, both.seeds) == (pytest.approx((10 + 0 - 25) / 3), 3)
    assert str(both) == str(paired([70.0, 65, 60], [60.0, 65, 85]))
    equal, more = verdict_on(found, "a", "0.5", 1.0)
    assert (equal["fine-tuned %"], equal["std"], equal["it %"]) == (
        pytest.approx(80),
        pytest.approx(10),
        pytest.approx(80),
    )
    assert (more["difference"], more["low"], more["worth it"]) == (pytest.approx(10), pytest.approx(10), "yes")
    assert architecture(found, "a", "0.5") == []
    found += [r | {"arm": f"shuffled({r['arm']})"} for r in rows(a=[0.7, 0.7, 0.7])]
    (line,) = architecture(found, "a", "0.5")
    assert (line["against"], line["difference"]) == ("places shuffled", pytest.approx(10))
    with pytest.raises(ResproutError, match="no seed"):
        pooled(found[:3], [("a", "0.5")], "scratch")


def tiny(net: str, **more) -> RethinkingScratch:
    return RethinkingScratch(model=net, ratio=0.3, epochs=0.3, dense_epochs=0.3, seeds=2, lottery=(0.1,), **more)


def test_it_runs_goes_on_and_says_what_its_tables_hold(tmp_path, net, monkeypatch):
    shares: list[float] = []
    found = tiny(net)(tmp_path, lambda what, share: shares.append(share))
    assert shares == sorted(shares)
    json.dumps(found.tables, allow_nan=False)
    table = found.tables["Was it worth it?"]
    assert [line["seeds"] for line in table] == [2] * 6
    others = [line["against"] for line in found.tables["From scratch: the found widths or places, and others"]]
    assert others == ["all layers narrower alike", "places shuffled"]
    b = sum(line["difference"] for line in table[1:4:2]) / 2
    assert f"of channels, fine-tuning is {b:+.2f} points" in found.verdict
    times = {c["arm"]: c["times"] for c in found.tables["Cells"] if c["arm"].startswith("scratch_compute")}
    assert all(t > 1 for t in times.values())
    for name in ("train", "compare"):  # nothing is trained again
        monkeypatch.setattr(f"resprout.compare.run.{'train' if name == 'train' else 'fit'}", None)
    monkeypatch.setattr(RethinkingScratch, "_ticket", None)
    again = tiny(net)(tmp_path)
    assert (again.verdict, again.tables) == (found.verdict, found.tables)


def test_it_is_asked_of_a_comparison_that_is_there(tmp_path, net):
    made = compare(
        ["one_way", "gmp"],
        sparsity=[0.5],
        model=net,
        epochs=0.3,
        dense_epochs=0.3,
        seeds=2,
        engine=Here(),
        out=tmp_path / "c",
    )
    found = RethinkingScratch(comparison=str(made.folder), arm="gmp")(tmp_path)
    assert {line["arm"] for line in found.tables["Was it worth it?"]} == {"gmp"}
    assert {c["arm"] for c in found.tables["Cells"]} == {"dense", "gmp", "scratch(gmp)", "scratch_compute(gmp)"}
    mine = [c["test"] for c in found.tables["Cells"] if c["arm"] == "gmp"]
    assert mine == [r["test"] for r in made.rows if r["arm"] == "gmp"]
    with pytest.raises(ResproutError, match="gmp"):
        RethinkingScratch(comparison=str(made.folder), arm="gmpp")(tmp_path)


def test_training_that_weights_had_is_not_forgotten(tmp_path, net):
    torch.manual_seed(0)
    from safetensors.torch import save_file

    save_file(find.network(net, None, 0).state_dict(), tmp_path / "w.safetensors")
    study = RethinkingScratch(
        model=net, weights=str(tmp_path / "w.safetensors"), predefined=(), automatic=(), epochs=0.3, seeds=1, lottery=()
    )
    found = study(tmp_path / "s")
    assert "without the training that the weights had" in found.verdict
    assert found.holds is None


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ResproutError, match="name an arm"):
        RethinkingScratch(predefined=(), automatic=(), unstructured=())(tmp_path)
    with pytest.raises(ResproutError, match="ratio"):
        RethinkingScratch(ratio=50)(tmp_path)


@pytest.mark.slow
def test_fine_tuning_half_of_the_channels_is_not_worth_it(tmp_path):
    """The catalogue's check: L1 at half of the channels, scratch-B within two deviations of fine-tuning, or above it."""
    study = RethinkingScratch(automatic=(), unstructured=(), lottery=())
    _, line = study(tmp_path).tables["Was it worth it?"]
    assert line["seeds"] == 5
    assert line["difference"] < 2 * max(line["std"], line["its std"])
    assert line["worth it"] == worth_it(Difference(line["difference"], line["low"], line["high"], 5), study.margin)
