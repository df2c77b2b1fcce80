"""Pruning at initialisation: what a cut does to signals, how far they come back, and whether a deep network then learns."""

import copy

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Optimizer
from resprout.methods.recipe._edge import OnTheEdge, by_formula, by_match
from resprout.methods.recipe.robust_pai import RobustPai
from resprout.methods.score.magnitude import Magnitude


def deep(depth: int, width: int, inputs: int = 20) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(inputs if i == 0 else width, width, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 2, bias=False))


def data() -> list:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(128, 20, generator=g)
    return [(x, (x[:, 0] > 0).long())]


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 20, generator=g)
    y = (x[:, 0] > 0).long()
    return rs.Arrays((x, y), (x[:64], y[:64]), (x[:64], y[:64]), batch_size=64, name="tiny")


def on_the_edge(depth: int, width: int) -> nn.Sequential:
    model = deep(depth, width)
    run = Run(model, task())
    run.do(OnTheEdge("relu"))
    return model


def power(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(data()[0][0]).square().mean())


@pytest.mark.parametrize("score", ["magnitude", "snip"])
def test_a_match_brings_sixty_layers_at_80_percent_back(score):
    model = on_the_edge(60, 100)
    dense, whole = copy.deepcopy(model), power(model)
    rs.prune(model, 0.8, score=score, data=data(), loss=loss)
    probe = Probe(model, data=data(), loss=loss, anchor=dense.state_dict(), training=False)
    by_match(probe, probe.at_anchor())
    assert power(model) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize(
    ("score", "fell", "low", "high"),
    [("random", 1e-40, 1e-3, 1e3), ("magnitude", 1e-9, 1e-3, 1e3), ("snip", 1, 1e20, 1e99)],
)
def test_the_formula_is_for_masks_that_know_nothing_of_the_inputs(score, fell, low, high):
    """In one network of this width it comes back to within its own spread; of a mask scored on data it overshoots by far."""
    model = on_the_edge(60, 100)
    dense, whole = copy.deepcopy(model), power(model)
    rs.prune(model, 0.8, score=score, data=data(), loss=loss)
    assert power(model) < fell * whole
    by_formula(dict(model.named_parameters()), dict(dense.named_parameters()))
    assert low < power(model) / whole < high


@pytest.mark.parametrize(("conv", "places"), [(nn.Conv1d, (8,)), (nn.Conv2d, (8, 8))])
def test_a_match_counts_the_bias(conv, places):
    torch.manual_seed(0)
    model = nn.Sequential(conv(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 ** len(places), 3))
    g = torch.Generator().manual_seed(1)
    x = torch.randn(16, 1, *places, generator=g)
    batches, dense = [(x, torch.randint(3, (16,), generator=g))], copy.deepcopy(model)
    rs.prune(model, 0.7)
    probe = Probe(model, data=batches, loss=loss, anchor=dense.state_dict(), training=False)
    by_match(probe, probe.at_anchor())
    with torch.no_grad():
        for upto in (1, 4):
            assert float(model[:upto](x).square().mean()) == pytest.approx(
                float(dense[:upto](x).square().mean()), rel=1e-4
            )


@pytest.mark.parametrize(("rescale", "learns"), [("match", True), ("none", False)])
def test_a_deep_network_learns_only_when_rescaled(rescale, learns):
    run = Run(deep(30, 60), task(), probe_batches=2)
    run.do(Mark("start"))
    recipe = RobustPai(50, rescale=rescale, lr=0.003, optimizer=Optimizer(decay=0, nesterov=False), score=Magnitude())
    recipe(run, [rs.Sparsity(0.8)])
    trained = next(r for r in run.journal if r["step"] == "Train")
    assert (trained["loss"] < 0.35) == learns  # ln 2 = 0.69 at first
    assert run.masks.sparsity == pytest.approx(0.8, abs=1e-3)


def test_budgets_begin_at_the_same_weights_and_mistakes_are_named():
    run = Run(deep(3, 10), task(), probe_batches=2)
    run.do(Mark("start"))
    RobustPai(epochs=1)(run, [rs.Nonzero(100), rs.Nonzero(60)])
    assert [r["alive"] for r in run.journal if r["step"] == "Arrive"] == [100, 60]
    assert run.trained == 4
    with pytest.raises(ResproutError, match="rescale"):
        RobustPai(rescale="exact")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ResproutError, match="unknown activation"):
        run.do(OnTheEdge("rellu"))
