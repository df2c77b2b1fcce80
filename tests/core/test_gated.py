"""Learned masks: identities of the gates, exact counts, and a run that is killed within."""

import dataclasses
from typing import Any

import pytest
import torch
from perceptron import net, task
from torch import nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.errors import ResproutError
from resprout.core.gated import Gated
from resprout.core.granularity import Block, Units, Weight
from resprout.core.learn import Learn
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.gate.hard_concrete import HardConcrete
from resprout.methods.gate.straight_through import StraightThrough
from resprout.methods.gate.transport import Transport, shift
from resprout.methods.recipe.learned_mask import LearnedMask
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic

SGD = Optimizer("sgd", momentum=0.0, decay=0.0)


def learn(steps: int, gate: Any, keep: int, optimizer: Optimizer = SGD, end: float = 0.5) -> Learn:
    return Learn(Train(steps, Constant(0.1), optimizer), gate, keep, Cubic(0.0, 1.0), 0.0, end, Global())


def test_scores_are_minus_lr_times_the_sum_of_weights_times_their_gradients():
    """Movement pruning, equation 3, on one linear layer of which all passes: S = -lr sum(w g) while w is trained as ever."""
    run = Run(nn.Sequential(nn.Linear(6, 2, bias=False)), task())
    plain, want = run.fork(), torch.zeros(2, 6)
    train = Train(5, Constant(0.1), SGD)

    part: list[Gated] = []

    def make() -> Gated:
        part.append(Gated(run, StraightThrough(), lambda t: 12, Global()))
        return part[0]

    with train.under_way(run, make):
        scores = run.slots["gate:0.weight"].clone()
    for _ in range(5):
        before = plain.model[0].weight.detach().clone()
        Train(1, Constant(0.1), SGD)(plain)
        want += before * (plain.model[0].weight.detach() - before)  # -lr g = the step
    torch.testing.assert_close(scores, want)
    torch.testing.assert_close(run.model[0].weight, plain.model[0].weight)


def test_the_gradient_of_a_block_is_the_sum_over_its_weights():
    run = Run(net(), task(), granularity=Block(5, 2))
    gated = Gated(run, StraightThrough(), lambda t: run.units.total, Global())
    batch = next(iter(run.task.batches("train")))
    run.task.loss(gated, batch).backward()
    weight = run.model[0].weight
    assert weight.grad is not None
    want = (weight.grad * weight.detach()).reshape(2, 5, 3, 2).sum((1, 3))
    grad = gated.apart[0].grad
    torch.testing.assert_close(grad, want)


@pytest.mark.parametrize("gate", [StraightThrough(), StraightThrough(weight=1.0), Transport()], ids=repr)
@pytest.mark.parametrize("granularity", [Weight(), Block(2, 2), Units("channel")], ids=repr)
def test_the_count_is_exact_and_the_dead_are_zero(gate, granularity):
    model = net()
    groups = rs.trace(model, torch.randn(1, 6)).groups if isinstance(granularity, Units) else ()
    run = Run(model, task(), granularity=granularity, groups=groups)
    keep = run.units.total // 3
    record = run.do(learn(6, gate, keep))
    assert run.units.alive == keep
    assert record["tuned"] > 0
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())


def test_what_is_dead_stays_dead():
    run = Run(net(), task())
    half = {n: torch.arange(m.numel()).reshape(m.shape) % 2 == 0 for n, m in run.masks.items()}
    run.set_masks(Masks(half))
    run.do(learn(4, StraightThrough(), 20))
    assert run.masks.alive == 20
    assert not (run.masks - Masks(half)).alive


def halved() -> Run:
    """Every other weight of the first layer is dead, and all of the second."""
    run = Run(net(), task())
    run.set_masks(
        Masks({n: (torch.arange(m.numel()).reshape(m.shape) % 2 == 0) & (len(m) > 2) for n, m in run.masks.items()})
    )
    return run


@pytest.mark.filterwarnings("ignore::resprout.core.errors.LayerDied")
@pytest.mark.parametrize("gate", [StraightThrough(1.0), Transport(), HardConcrete(begin=0.0)], ids=repr)
def test_the_dead_take_no_part(gate):
    run = halved()
    gated = Gated(run, gate, lambda t: 12, Global())
    made = {n: m.detach() for n, m in gated.passing().items()}
    if not isinstance(gate, HardConcrete):  # which draws how many
        assert float(torch.cat([m.flatten() for m in made.values()]).sum()) == pytest.approx(12)
    assert all(not m[~run.masks[n]].any() for n, m in made.items())
    run.task.loss(gated, next(iter(run.task.batches("train")))).backward()
    assert all(p.grad is None or not p.grad[~run.masks[n]].any() for n, p in zip(run.masks, gated.apart, strict=True))
    gated.t = 1.0
    penalty = gated.penalty()
    with torch.no_grad():
        for n, p in zip(run.masks, gated.apart, strict=True):
            p[~run.masks[n]] = 9.0
    assert gated.penalty() == penalty
    assert gated.chosen(12).alive == 12
    assert gated.chosen(12) <= run.masks


def test_a_frozen_network_runs_as_in_use_and_its_norms_stand_still():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2))
    run = Run(model, task())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    seen = []
    model[2].register_forward_hook(lambda m, args, out: seen.append(torch.equal(args[0], out)))
    gated = dataclasses.replace(learn(4, HardConcrete(), run.masks.total), weights=False)
    run.do(gated)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(seen)


def test_units_that_do_not_pass_go_on_learning():
    run = Run(net(), task())
    gated = Gated(run, StraightThrough(), lambda t: 0, Global())
    batch = next(iter(run.task.batches("train")))
    run.task.loss(gated, batch).backward()
    assert run.model[2].weight.grad is not None
    scores = [p.grad for p in gated.apart if p.grad is not None]
    assert any(bool(g.any()) for g in scores)


def test_transport_has_the_exact_sum_and_the_gradient_of_finite_differences():
    g = torch.Generator().manual_seed(1)
    scores = {
        "a": torch.rand(7, dtype=torch.float64, generator=g),
        "b": torch.rand(5, dtype=torch.float64, generator=g),
    }
    gate = Transport(eps=0.3)

    def passing(given: dict[str, torch.Tensor]) -> torch.Tensor:
        state = {n: torch.zeros_like(s) for n, s in given.items()}
        made = gate(given, 4, lambda s, k: Masks({}), state)
        return torch.cat([m.flatten() for m in made.values()])

    assert float(passing(scores).sum()) == pytest.approx(4, abs=1e-6)

    def flat(x: torch.Tensor) -> torch.Tensor:
        return passing({"a": x[:7], "b": x[7:]})

    x = torch.cat(list(scores.values())).requires_grad_()
    assert torch.autograd.gradcheck(flat, (x,), eps=1e-6, atol=1e-5)


def test_transport_hardens_to_the_best_of_fixed_scores():
    scores = {"a": torch.tensor([0.1, 0.9, 0.6, 0.2, 0.55])}
    gate, state, soft = Transport(), {"a": torch.zeros(5)}, []
    for _ in range(400):
        soft.append(gate(scores, 2, lambda s, k: Masks({}), state)["a"])
    assert all(float(m.sum()) == pytest.approx(2, abs=1e-5) for m in soft)
    off = [float((m - torch.tensor([0.0, 1, 1, 0, 0])).abs().max()) for m in soft]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-6 < off[10]


def test_shift_bisects():
    odds = torch.tensor([-30.0, 0.0, 2.0, 50.0])
    assert float((odds + shift(odds, 2)).sigmoid().sum()) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("gate", [StraightThrough(), Transport()], ids=repr)
def test_a_run_killed_within_ends_bit_for_bit_the_same(tmp_path, gate):
    def go(folder: str, kill: int | None) -> Run:
        run = Run(net(), task(), folder=RunFolder(tmp_path, folder, {}), save_every=0.0)
        if kill is not None:

            def stop(event: str, facts: dict[str, Any]) -> None:
                if event == "train" and facts["step"] == kill:
                    raise KeyboardInterrupt

            run.report = stop
        run.resume()
        run.do(learn(12, gate, 20, Optimizer("adamw", times=10.0)))
        return run

    whole = go("whole", None)
    with pytest.raises(KeyboardInterrupt):
        go("cut", 7)
    again = go("cut", None)
    assert again.masks == whole.masks
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert again.journal[-1]["loss"] == whole.journal[-1]["loss"]


def test_learned_mask_meets_its_budgets():
    run = Run(net(), task())
    run.do(Mark("dense"))
    LearnedMask(epochs=6)(run, [Budget.parse("20 weights"), Budget.parse("50 weights")])
    assert [r["alive"] for r in run.journal if r["step"] == "Arrive"] == [50, 20]


def test_learn_says_what_it_cannot_do():
    with pytest.raises(ResproutError, match="keep must be between 0 and the 80 units"):
        Run(net(), task()).do(learn(2, StraightThrough(), 81))
    odd = Learn(Train(2, Constant(0.1), best=True), StraightThrough(), 8, Cubic(0.0, 1.0), 0.0, 0.5, Global())
    with pytest.raises(ResproutError, match="leave out best, tune and rule"):
        Run(net(), task()).do(odd)


def test_a_gate_that_cannot_start_leaves_all_trainable():
    """Frozen weights are frozen last."""
    run = Run(net(), task())

    class Broken(StraightThrough):
        def start(self, worth, generator):
            raise ResproutError("no start")

    with pytest.raises(ResproutError, match="no start"):
        Gated(run, Broken(), lambda t: 80, Global(), weights=False)
    assert all(p.requires_grad for p in run.model.parameters())
