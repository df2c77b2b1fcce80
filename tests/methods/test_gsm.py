"""Global sparse momentum: the closed form of what never learns, exact counts, plain SGD where all learn, the exponent."""

import math

import pytest
import torch
from sign_task import perceptron, start
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Optimizer, Train
from resprout.methods.recipe.gsm import Gsm
from resprout.methods.rule.global_momentum import GlobalMomentum, shrinkage
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cosine import Cosine
from resprout.tasks.digits import digits

SGD = Optimizer(momentum=0.9, decay=0.01, nesterov=False)


def test_what_never_learns_follows_momentum_and_decay_alone():
    run = start(perceptron(8))
    before = {n: w.detach().double().clone() for n, w in run.weights().items()}
    steps, lr = 30, 0.05
    run.do(Train(steps, Constant(lr), SGD, GlobalMomentum(0)))
    factor, z = 1.0, 0.0
    for _ in range(steps):  # Z <- beta Z + eta w, w <- w - alpha Z, for w = 1
        z = 0.9 * z + 0.01 * factor
        factor -= lr * z
    for name, weight in run.weights().items():
        assert torch.allclose(weight.detach().double(), factor * before[name], rtol=1e-5)
    assert factor == pytest.approx(math.exp(-shrinkage(Constant(lr), SGD, steps)), rel=0.1)


def test_exactly_so_many_weights_learn_and_they_are_the_best():
    run = start(perceptron(8))
    seen = []

    class Spy(GlobalMomentum):
        def after_backward(self, run, step, steps):
            worth = {n: (w * w.grad).abs().detach() for n, w in run.weights().items() if w.grad is not None}
            super().after_backward(run, step, steps)
            learn = {n: w.grad != 0 for n, w in run.weights().items() if w.grad is not None}
            seen.append((worth, learn))

    run.do(Train(5, Constant(0.05), SGD, Spy(11)))
    for worth, learn in seen:
        flat, chosen = (torch.cat([t.flatten() for t in d.values()]) for d in (worth, learn))
        assert int(chosen.sum()) == 11
        assert flat[chosen].min() >= flat[~chosen].max()


def test_where_all_learn_it_is_momentum_sgd_bit_for_bit():
    a, b = start(perceptron(8)), start(perceptron(8))
    a.do(Train(20, Constant(0.05), SGD, GlobalMomentum(a.masks.total)))
    b.do(Train(20, Constant(0.05), SGD))
    assert all(torch.equal(w, b.weights()[n]) for n, w in a.weights().items())


def test_too_small_an_exponent_is_refused_before_training():
    run = start(perceptron(8))
    with pytest.raises(ResproutError, match=r"exp\(-0\.\d+\).*leave decay out"):
        Gsm(epochs=2, decay=1e-4)(run, [rs.Sparsity(0.5)])
    assert run.trained == 0
    with pytest.raises(ResproutError, match="momentum"):
        run.do(Train(2, Constant(0.1), Optimizer("adamw"), GlobalMomentum(5)))


def test_the_exponent_of_the_paper_and_of_the_catalogue():
    """600 epochs of CIFAR-10 in batches of 64 at 5e-3, its drops aside, and what a decay left out is chosen for."""
    paper = shrinkage(Constant(5e-3), Optimizer(momentum=0.98, decay=1e-4), 600 * 782)
    assert paper == pytest.approx(11.7, abs=0.05)
    recipe = Gsm(lr=Cosine(0.02, 0.0))
    assert shrinkage(recipe.lr, recipe.optimizer(500), 500) == pytest.approx(10)


def test_on_digits_the_final_cut_takes_nothing_that_matters():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    run = Run(mlp, digits(), seed=0, probe_batches=2)
    run.do(Mark("start"))
    run.do(Train(90, Cosine(0.1, 0.0, warmup=0.1)))
    run.do(Mark("dense"))
    weights = {}

    put = run.set_masks

    def spy(masks, *args, **more):
        weights.setdefault("before", torch.cat([w.detach().abs().flatten() for w in run.weights().values()]))
        return put(masks, *args, **more)

    run.set_masks = spy
    Gsm(epochs=30)(run, [rs.Sparsity(0.9)])
    trained = [r for r in run.journal if r["step"] == "Train"][-1]
    arrived = run.journal[-1]
    assert arrived["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert abs(arrived["validation"] - trained["validation"]) < 0.015  # 4 of 300 images
    sizes = weights["before"].sort(descending=True).values
    keep = round(0.1 * len(sizes))
    assert sizes[keep // 2] > 100 * sizes[4 * keep], "a gap of two orders of magnitude"
    assert any(r.get("says", "").startswith("passive weights: exp(-10.0)") for r in run.journal)
