"""Measured tables, exact division, prices, and a layer that is protected because it matters."""

import itertools

import pytest
import torch
from sign_task import perceptron, start
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.kinds import Scores
from resprout.methods.allocate.rate_distortion import RateDistortion
from resprout.methods.recipe.rd_prune import RdPrune
from resprout.methods.search.distortion import Distortion


def test_tables_are_what_cutting_a_layer_alone_does():
    run = start(perceptron(10))
    found = Distortion((0.0, 0.5, 1.0), batches=2)(run)
    data = torch.cat([b[0] for b in run.probe("distortion").data()])
    whole = run.model(data).detach()
    weight = run.weights()["0.weight"].detach()
    kept = weight.clone()
    with torch.no_grad():
        for level, distortion in zip((0.0, 0.5, 1.0), found["tables"]["0.weight"], strict=True):
            keep = round(level * 60)
            edge = kept.abs().flatten().sort(descending=True).values[keep - 1] if keep else torch.inf
            weight.copy_(kept * (kept.abs() >= edge))
            assert distortion == pytest.approx(float((run.model(data) - whole).square().sum(1).mean()), abs=1e-5)
    assert found["tables"]["0.weight"][-1] == 0
    worst = Distortion((0.0, 0.5, 1.0), batches=2, worst=True)(start(perceptron(10)))
    assert worst["tables"]["0.weight"][1] > found["tables"]["0.weight"][1]
    with pytest.raises(ResproutError, match="levels"):
        Distortion((1.0, 0.5))
    with pytest.raises(ResproutError, match="levels"):
        Distortion((0.5, 1.5))


def test_the_allocation_equals_brute_force_at_prices():
    g = torch.Generator().manual_seed(3)
    names, levels = ["a", "b", "c", "d"], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    sizes = dict(zip(names, (50, 100, 30, 80), strict=True))
    prices = dict(zip(names, (1.0, 3.0, 2.0, 5.0), strict=True))
    tables = {n: tuple(torch.rand(6, generator=g).sort(descending=True).values.tolist()) for n in names}
    scores = Scores({n: torch.rand(k, generator=g) for n, k in sizes.items()})
    for allowance in (100.0, 300.0, 500.0):
        wishes = RateDistortion(levels, tables)(scores, prices, allowance)
        picks = {n: levels.index(round(k / sizes[n], 1)) for n, k in wishes.items()}
        assert sum(prices[n] * k for n, k in wishes.items()) <= allowance
        best = min(
            sum(tables[n][i] for n, i in zip(names, given, strict=True))
            for given in itertools.product(range(6), repeat=4)
            if sum(prices[n] * sizes[n] * levels[i] for n, i in zip(names, given, strict=True)) <= allowance
        )
        assert sum(tables[n][i] for n, i in picks.items()) == pytest.approx(best)


def test_a_layer_that_is_scaled_up_is_protected():
    """Two linear layers side by side, one of which has ten times the say."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.small, self.large = nn.Linear(6, 2, bias=False), nn.Linear(6, 2, bias=False)

        def forward(self, x):
            return self.small(x) + 10 * self.large(x)

    run = start(Two())
    RdPrune(epochs=0)(run, [rs.Sparsity(0.5)])
    assert run.masks.counts["large.weight"] > run.masks.counts["small.weight"]
    assert run.masks.alive == 12


def test_rounds_nest_and_meet_several_budgets():
    run = start(perceptron(10))
    RdPrune(epochs=4, rounds=2)(run, [rs.Nonzero(50), rs.Nonzero(20)])
    assert [r["alive"] for r in run.journal if r["step"] == "Arrive"] == [50, 20]
    assert run.trained == 4 * run.task.steps_per_epoch
    with pytest.raises(ResproutError, match="unknown weight"):
        RateDistortion((0.0, 1.0), {"x": (1.0, 0.0)})(Scores({"a": torch.rand(3)}), {"a": 1.0}, 2)
