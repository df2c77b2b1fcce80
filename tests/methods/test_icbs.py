"""Block coordinate descent over masks: the quadratic, its solver, and what the remover does with both."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.errors import ResproutError
from resprout.core.granularity import NM, Weight
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.core.task import Split, Task
from resprout.methods.remove._exchange import Exchange, exact, fisher
from resprout.methods.remove._qubo import anneal, energy, exhaustive, quadratic, solve
from resprout.methods.remove.icbs import Icbs
from resprout.methods.score.magnitude import Magnitude


def block(n: int = 12, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Weights now (half of them pruned), as they were, a gradient, and a positive semidefinite H."""
    draw = np.random.default_rng(seed)
    a, whole = draw.normal(size=(n, n + 3)), draw.normal(size=n)
    kept = np.arange(n) % 2
    return whole * kept, whole, draw.normal(size=n), a @ a.T / n, 1.0 - kept


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_quadratic_is_that_of_the_new_weights(ridge):
    now, whole, g, h, before = block()
    q, c = quadratic(now, whole, g, h, steer=0.8, ridge=ridge)
    draw = np.random.default_rng(1)
    for _ in range(20):
        x = (draw.random(12) < 0.5).astype(float)
        step = np.where(x == 1, 0.0, whole) - now
        by_hand = 0.8 * g @ step + step @ h @ step / 2 + ridge * step @ step
        assert c + energy(q, x) == pytest.approx(by_hand, abs=1e-9)
    assert c + energy(q, before) == pytest.approx(0, abs=1e-9), "who stays as it is changes nothing"


def test_the_authors_code_drops_what_is_negative():
    now, whole, g, h, _ = block()
    q, plain = quadratic(now, whole, g, h, negative=False)[0], quadratic(now, whole, g, h)[0]
    assert (plain < 0).any()
    assert np.array_equal(q, np.where(plain > 1e-12, plain, 0))


@pytest.mark.parametrize("seed", range(8))
def test_annealing_finds_the_best_of_all_ways(seed):
    now, whole, g, h, _ = block(seed=seed)
    q, _ = quadratic(now, whole, g, h)
    start = (np.arange(12) < 5).astype(float)
    best = exhaustive(q, 5)
    found = anneal(q, start, np.random.default_rng(seed))
    assert found.sum() == best.sum() == 5
    assert energy(q, found) == pytest.approx(energy(q, best), abs=1e-12)
    assert energy(q, solve(q, start, np.random.default_rng(0))) == pytest.approx(energy(q, best), abs=1e-12)


def test_a_large_block_is_never_worse_than_it_was():
    for seed in range(3):
        now, whole, g, h, before = block(60, seed)
        q, c = quadratic(now, whole, g, h)
        found = solve(q, before, np.random.default_rng(seed))
        assert found.sum() == before.sum()
        assert c + energy(q, found) <= 1e-9
    assert solve(np.eye(3), np.ones(3), np.random.default_rng(0)).tolist() == [1, 1, 1]


class Regression(Task):
    """Least squares of inputs that overlap; one batch, the same always."""

    def __init__(self, columns: int = 24):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(200, columns, generator=g, dtype=torch.float64)
        self.x = x + 0.9 * x.roll(1, 1)
        self.y = self.x @ torch.randn(columns, 2, generator=g, dtype=torch.float64)

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Any]:
        yield self.x, self.y

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return {self.metric: -float(self.loss(model, (self.x, self.y)))}

    @property
    def steps_per_epoch(self) -> int:
        return 1


def regression() -> Run:
    task = Regression()
    model = nn.Linear(24, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(task.x, task.y).solution.T)
    return Run(model, task)


def test_with_the_true_curvature_the_true_loss_never_rises():
    run = regression()
    whole = run.weights()["weight"].detach().clone()
    plain = rs.prune(regression().model, 0.5, score="magnitude", allocate="uniform", granularity="row")
    method = Icbs(Magnitude(), steps=25, block=10, curvature="exact", every=1, rest=0.5)
    facts = run.do(Remove(Budget.parse("0.5"), method))
    assert all(b <= a + 1e-12 for a, b in zip(facts["loss"], facts["loss"][1:], strict=False))
    assert facts["loss"][-1] < 0.8 * facts["loss"][0]
    assert run.masks.sparsity == 0.5
    assert facts["moved"] == (plain - run.masks).alive > 0
    assert torch.equal(run.model.weight, whole * run.masks["weight"]), "who stays, stays what it was"  # pyright: ignore


def test_slopes_and_curvatures_are_those_of_autograd():
    task, model = Regression(), nn.Linear(24, 2, bias=False).double()
    w = model.weight.detach()
    probe = Probe(model, data=[(task.x, task.y)], loss=task.loss, training=False)
    every = torch.ones_like(w, dtype=torch.bool)
    tensors, at = {"weight": Exchange(w, every, every, w.abs(), (0, 0))}, torch.tensor([3, 30, 7])
    gradient, hessian = exact(probe, [(task.x, task.y)], tensors, {"weight": at})["weight"]

    def value(flat: Tensor) -> Tensor:
        return (task.x @ flat.reshape(w.shape).T - task.y).square().mean()

    torch.testing.assert_close(gradient, torch.func.grad(value)(w.flatten())[at])
    torch.testing.assert_close(hessian, torch.func.hessian(value)(w.flatten())[at][:, at])
    samples = [(task.x[i : i + 1], task.y[i : i + 1]) for i in range(5)]
    gradient, hessian = fisher(probe, samples, tensors, {"weight": at})["weight"]
    each = torch.stack(
        [
            torch.func.grad(lambda f, s=s: (s[0] @ f.reshape(w.shape).T - s[1]).square().mean())(w.flatten())[at]
            for s in samples
        ]
    )
    torch.testing.assert_close(gradient, each.mean(0))
    torch.testing.assert_close(hessian, each.T @ each / 5)


def test_a_block_is_of_the_best_pruned_and_the_worst_kept_and_rests():
    worth = torch.arange(20.0).reshape(2, 10)
    start = worth >= 10
    tensor = Exchange(worth, torch.ones_like(start), start, worth, (0.2, 0.2))
    assert tensor.block(4, rest=0.5).tolist() == [9, 8, 10, 11]
    assert tensor.block(4, rest=0.5).tolist() == [7, 6, 12, 13]
    rest = tensor.block(100, rest=0.5).tolist()
    assert sorted(rest) == [2, 3, 4, 5, 14, 15, 16, 17], "0, 1, 18 and 19 are frozen"
    assert tensor.block(4, rest=0.4).tolist() == [9, 8, 10, 11], "the oldest have rested"


def test_masks_of_before_are_kept_and_patterns_refused():
    run = regression()
    run.do(Mark("dense"))
    mask = torch.rand(2, 24, generator=torch.Generator().manual_seed(0)) < 0.7
    run.set_masks(Masks({"weight": mask}))
    method = Icbs(Magnitude(), Weight(), steps=4, block=8, order="random", curvature="exact", every=2)
    run.do(Remove(Budget.parse("0.6"), method))
    assert run.masks <= Masks({"weight": mask})
    assert run.masks.alive == 19
    with pytest.raises(ResproutError, match=r"Weight\(\) or Row\(\)"):
        Icbs(granularity=NM(2, 4))(run, Budget.parse("0.7"))


def test_a_classifier_loses_less_than_with_the_masks_it_began_with(tiny, batches):
    x = torch.cat([b[0] for b in batches])
    data = (x, tiny.eval()(x).argmax(1))
    run = Run(tiny, rs.Arrays(data, data, data, batch_size=5), probe_batches=3)
    facts = run.do(Remove(Budget.parse("0.5"), Icbs(steps=9, block=40, at_once=2, every=3)))
    assert run.masks.sparsity == 0.5
    assert min(facts["loss"]) < facts["loss"][0]
