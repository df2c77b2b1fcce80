"""Pruning by the PQ index: what goes in each scope, exact budgets, equal steps, the stop, and resuming."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.budget import Nonzero, Sparsity
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.store import RunFolder
from resprout.evaluate.sparsity_index import may_go, pq_index
from resprout.methods.recipe._pqi import Adapt, Criterion
from resprout.methods.recipe.sap import Sap

WIDE = Criterion(p=1.0, q=2.0)


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) > 0).long()
    return rs.Arrays((x, y), (x[:32], y[:32]), (x[:32], y[:32]), batch_size=16, name="tiny")


def start(folder: RunFolder | None = None) -> Run:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 2)
    )
    run = Run(model, task(), probe_batches=1, folder=folder)
    run.resume()
    run.do(Mark("start"))
    run.do(Mark("dense"))
    return run


def by_hand(weight: torch.Tensor, mask: torch.Tensor, c: Criterion) -> torch.Tensor:
    """One scope's new mask."""
    kept, alive = mask.clone(), mask.flatten().nonzero()[:, 0]
    order = weight.flatten()[alive].abs().argsort(stable=True)
    kept.view(-1)[alive[order[: may_go(weight[mask], *c.numbers)]]] = False
    return kept


@pytest.mark.parametrize("scope", ["global", "layer", "neuron"])
def test_each_scope_loses_its_own_number_of_smallest_weights(scope):
    criterion = dataclasses.replace(WIDE, scope=scope)
    run = start()
    run.do(Adapt(criterion, None))  # so that a second cut starts from masks
    weights, old = {n: w.detach().clone() for n, w in run.weights().items()}, run.masks
    facts = run.do(Adapt(criterion, None))
    if scope == "global":
        flat = torch.cat([w.flatten() for w in weights.values()])
        whole = by_hand(flat, torch.cat([m.flatten() for m in old.values()]), criterion)
        parts = whole.split([m.numel() for m in old.values()])
        expected = Masks({n: p.view_as(m) for (n, m), p in zip(old.items(), parts, strict=True)})
    elif scope == "layer":
        expected = Masks({n: by_hand(weights[n], m, criterion) for n, m in old.items()})
    else:
        rows = {
            n: [by_hand(w, r, criterion) if r.any() else r for w, r in zip(weights[n], m, strict=True)]
            for n, m in old.items()
        }
        expected = Masks({n: torch.stack(r) for n, r in rows.items()})
    assert run.masks == expected
    assert facts["died"] == facts["may_go"] == old.alive - expected.alive > 0
    assert facts["index"] == pytest.approx(pq_index(torch.cat([weights[n][m] for n, m in old.items()]), 1, 2))
    assert facts["indices"] == pytest.approx({n: pq_index(weights[n][m], 1, 2) for n, m in old.items()})


def test_a_budget_on_the_way_is_met_to_the_weight():
    run = start()
    go, alive = run.do(Adapt(WIDE, None, try_only=True))["may_go"], run.masks.alive
    short = run.do(Adapt(WIDE, Nonzero(alive - go // 2)))
    assert (short["met"], run.masks.alive) == (True, alive - go // 2)
    far = run.do(Adapt(WIDE, Nonzero(20)))
    assert not far["met"]
    assert run.masks.alive == alive - go // 2 - far["may_go"]
    assert run.do(Adapt(WIDE, Nonzero(20), whole=True))["met"]
    assert run.masks.alive == 20


@pytest.mark.parametrize(
    "recipe",
    [
        Sap(4),
        Sap(4, scope="layer", p=1.0, q=2.0),
        Sap(4, rounds=2),
        Sap(4, scope="neuron", rounds=5),
        Sap(4, eta=1e-9, gamma=1e-9),
    ],
    ids=["global", "layer", "few rounds", "neuron", "nothing goes"],
)
def test_budgets_are_met_exactly_in_the_steps_asked_for(recipe):
    """Also where the rounds run out, or the index lets nothing go (the last)."""
    run = start()
    seen = [run.masks]
    put = run.set_masks
    run.set_masks = lambda masks, *a, **k: (seen.append(masks), put(masks, *a, **k))[1]  # pyright: ignore
    recipe(run, [Sparsity(0.95), Sparsity(0.7)])
    arrived = [r for r in run.journal if r["step"] == "Arrive"]
    total = run.masks.total
    assert [r["alive"] for r in arrived] == [math.floor(0.3 * total), math.floor(0.05 * total + 1e-6)]
    assert run.trained == 4 * run.task.steps_per_epoch
    assert all(b <= a for a, b in pairwise(seen))
    assert all(bool((w[~run.masks[n]] == 0).all()) for n, w in run.weights().items())


def test_the_last_round_gets_the_epochs_that_are_left():
    run = start()
    Sap(10, rounds=30, p=1.0, q=2.0)(run, [Sparsity(0.8)])
    trained = [r for r in run.journal if r["step"] == "Train"]
    assert len(trained) < 30
    assert trained[-1]["trained"] - trained[-2]["trained"] > 60 // 30
    assert run.trained == 60


def script(run: Run, indices: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index of all living weights be what a script says; those of single tensors do not matter."""
    asked = iter([i for i in indices for _ in range(2)])  # a look, and the cut after it

    def index(w: torch.Tensor, p: float, q: float) -> float:
        return next(asked) if w.numel() == run.masks.alive else 0.0

    monkeypatch.setattr("resprout.methods.recipe._pqi.pq_index", index)


def test_it_stops_at_the_rise_and_goes_back_before_the_last_cut(monkeypatch):
    run = start()
    script(run, [0.5, 0.4, 0.3, 0.32, 0.34], monkeypatch)  # 0.32 is within a tenth of the least, 0.34 is not
    Sap(12, rounds=12, p=1.0, q=2.0, stop=True, rise=0.1)(run, [Sparsity(0.0)])
    looks = [r for r in run.journal if r["step"] == "Adapt" and "died" not in r]
    cuts = [r for r in run.journal if r["step"] == "Adapt" and r.get("died")]
    assert [r["index"] for r in looks] == [0.5, 0.4, 0.3, 0.32, 0.34]
    assert len(cuts) == 4
    assert run.masks.alive == cuts[2]["alive"]  # what the fourth cut was made from
    assert run.trained == 4 * run.task.steps_per_epoch


def test_it_stops_when_nothing_may_go_and_after_its_rounds():
    run = start()
    with torch.no_grad():
        for w in run.weights().values():
            w.fill_(0.5)
    Sap(2, rounds=2, stop=True)(run, [Sparsity(0.0)])
    assert (run.trained, run.masks.sparsity) == (0, 0)
    run = start()
    Sap(4, rounds=2, stop=True, rise=math.inf)(run, [Sparsity(0.0)])
    assert sum(r["step"] == "Train" for r in run.journal) == 2


def test_after_the_stop_the_budgets_beyond_are_met_too(monkeypatch):
    run = start()
    script(run, [0.5, 0.4, 0.6], monkeypatch)
    monkeypatch.setattr(run, "do", lambda step, do=run.do: (undo(monkeypatch, run), do(step))[1])
    Sap(12, rounds=12, p=1.0, q=2.0, stop=True)(run, [Sparsity(0.99), Sparsity(0.1), Sparsity(0.9)])
    total, arrived = run.masks.total, [r["alive"] for r in run.journal if r["step"] == "Arrive"]
    assert arrived[0] > 0.1 * total, "the network that it stopped at"
    assert arrived[1:] == [math.floor(0.1 * total + 1e-6), math.floor(0.01 * total + 1e-6)]
    assert run.trained == 12 * run.task.steps_per_epoch


def undo(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Take the script away once it is at its end: after the stop the index does not matter."""
    if any(r["step"] == "Rewind" and r["to"] == "round" for r in run.journal):
        monkeypatch.setattr("resprout.methods.recipe._pqi.pq_index", pq_index)


def test_a_killed_run_goes_on_to_the_same_network(tmp_path):
    folder = RunFolder(tmp_path, "sap", {})
    whole = start()
    Sap(4, rounds=6)(whole, [Sparsity(0.9)])
    killed = start(folder)
    do, left = killed.do, iter(range(9))
    killed.do = lambda step: do(step) if next(left, None) is not None else pytest.fail("killed")  # pyright: ignore
    with pytest.raises(pytest.fail.Exception):
        Sap(4, rounds=6)(killed, [Sparsity(0.9)])
    resumed = start(folder)
    Sap(4, rounds=6)(resumed, [Sparsity(0.9)])
    assert resumed.masks == whole.masks
    assert all(torch.equal(a, b) for a, b in zip(whole.weights().values(), resumed.weights().values(), strict=True))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scope": "channel"}, "scope"),
        ({"rounds": 0}, "rounds"),
        ({"rise": -1.0}, "rise"),
        ({"p": 2.0}, "p"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_bad_settings_are_named(given, says):
    with pytest.raises(ResproutError, match=says):
        Sap(**given)


def test_channels_are_refused():
    run = start()
    run.granularity = rs.core.granularity.parse("block:2x1")  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ResproutError, match="granularity"):
        run.do(Adapt(WIDE, None))
