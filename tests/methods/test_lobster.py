"""LOBSTER: the step by hand, weights without relevance decay geometrically, thresholds by validation loss, exact budgets."""

import pytest
import torch
from sign_task import perceptron, start
from torch import nn

import resprout as rs
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.train import Optimizer, Train
from resprout.methods.recipe._tolerance import WithinTolerance, validation_loss
from resprout.methods.recipe.lobster import Lobster
from resprout.methods.rule.insensitivity import Insensitivity
from resprout.methods.schedule.constant import Constant

PLAIN = Optimizer(momentum=0, decay=0, nesterov=False)


class Given(rs.Task):
    """A linear model with a loss of our choice."""

    def __init__(self, loss, batch):
        self._loss, self._batch = loss, batch

    @property
    def steps_per_epoch(self) -> int:
        return 10

    def batches(self, split, *, seed=0, epoch=0, start=0, shard=(0, 1)):
        yield from (self._batch for _ in range(10 - start))

    def loss(self, model, batch):
        return self._loss(model, batch)

    def evaluate(self, model, split):
        return {"accuracy": 0.0}


@pytest.mark.parametrize(("grad", "left"), [(0.3, 0.963), (1.0, 0.9), (1.5, 0.85), (0.0, 0.99)])
def test_the_step_is_the_catalogues(grad, left):
    """w = 1, eta = 0.1, lambda = 0.01: 1 - 0.03 - 0.007 = 0.963; no decay from a gradient of 1 on."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    task = Given(lambda m, x: (grad * m(x)).sum(), torch.ones(1, 1))
    run = Run(model, task, Masks.dense(model))
    run.do(Train(1, Constant(0.1), PLAIN, Insensitivity(0.01)))
    assert float(model.weight.detach()) == pytest.approx(left, abs=1e-6)


def test_weights_without_relevance_decay_geometrically_and_the_others_converge():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=g)
    x[:, 3:] = 0
    truth = torch.tensor([2.0, -1.0, 0.5, 0, 0, 0])
    model = nn.Linear(6, 1, bias=False)
    nn.init.ones_(model.weight)
    task = Given(lambda m, b: (m(b)[:, 0] - b @ truth).square().mean() / 2, x)
    run = Run(model, task, Masks.dense(model))
    run.do(Train(200, Constant(0.2), PLAIN, Insensitivity(1e-3)))
    weight = model.weight.detach()[0]
    assert weight[3:].tolist() == pytest.approx([0.999**200] * 3, rel=1e-4)
    assert torch.allclose(weight[:3], truth[:3], atol=0.02)


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.5])
def test_the_threshold_is_the_largest_within_the_tolerance(tolerance):
    run = start(perceptron(16))
    run.do(Train(20, Constant(0.3)))
    before = validation_loss(run)
    cut = run.do(WithinTolerance(tolerance, rs.Sparsity(1.0)))
    assert validation_loss(run) <= (1 + tolerance) * before + 1e-9
    assert cut["loss"] <= cut["bound"]
    sizes = torch.cat([w.detach()[run.masks[n]].abs() for n, w in run.weights().items()])
    assert float(sizes.min()) >= cut["threshold"] - 1e-7
    assert cut["died"] > 0 or tolerance == 0


def test_no_more_is_cut_than_the_budget_asks_for():
    run = start(perceptron(16))
    run.do(Train(20, Constant(0.3)))
    cut = run.do(WithinTolerance(1e9, rs.Nonzero(100)))
    assert cut["met"]
    assert run.masks.alive == 100


def test_the_recipe_cuts_by_validation_and_meets_its_budgets_and_epochs():
    run = start(perceptron(16))
    Lobster(epochs=16, strength=1e-3, tolerance=0.2, every=0.5, better=0.5)(run, [rs.Nonzero(80), rs.Nonzero(40)])
    assert [r["alive"] for r in run.journal if r["step"] == "Arrive"] == [80, 40]
    assert run.trained == 16 * run.task.steps_per_epoch
    assert any(r["step"] == "WithinTolerance" and r["died"] for r in run.journal)
    assert all(bool((w.detach()[~run.masks[n]] == 0).all()) for n, w in run.weights().items())
