"""Rules, recovery, searches and recipes on a tiny task: exact counts, nesting, the steps they spend."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.kinds import Recipe
from resprout.core.masks import Masks, keep_count
from resprout.core.run import Run
from resprout.core.steps import Mark, Meet, Prune, Search
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.lamp import Lamp
from resprout.methods.recipe.bidirectional_gradual import BidirectionalGradual
from resprout.methods.recipe.bidirectional_iterative import BidirectionalIterative
from resprout.methods.recipe.bidirectional_oneshot import BidirectionalOneshot
from resprout.methods.recipe.lth_imp import LthImp
from resprout.methods.recipe.one_way import OneWay
from resprout.methods.recover.finetune import Finetune
from resprout.methods.recover.lr_rewind import LrRewind
from resprout.methods.recover.weight_rewind import WeightRewind
from resprout.methods.rule.gradual import Gradual
from resprout.methods.rule.rigl import RigL
from resprout.methods.rule.set import Set
from resprout.methods.rule.sprout import Sprout
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.search._controller import Controller
from resprout.methods.search.damage import Damage
from resprout.methods.search.one_way_curve import OneWayCurve
from resprout.methods.search.policy_gradient import PolicyGradient


def task(n: int = 96) -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) > 0).long()
    return rs.Arrays((x, y), (x[:32], y[:32]), (x[:32], y[:32]), batch_size=16, name="tiny")


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2),
    )  # fmt: skip


def start(**given) -> Run:
    run = Run(net(), task(), probe_batches=2, **given)
    run.do(Mark("start"))
    run.do(Mark("dense"))
    return run


class Spy:
    """Collects the masks that a run has had."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch):
        self.seen: list[Masks] = [run.masks]
        put = run.set_masks

        def spy(masks, *args, **more):
            self.seen.append(masks)
            return put(masks, *args, **more)

        monkeypatch.setattr(run, "set_masks", spy)


def zeros(run: Run) -> bool:
    return all(bool((w[~run.masks[n]] == 0).all()) for n, w in run.weights().items())


def test_gradual_follows_its_schedule_and_nests(monkeypatch):
    run = start()
    spy = Spy(run, monkeypatch)
    schedule = Cubic(0.0, 0.9)
    run.do(Train(20, Constant(0.01), rule=Gradual(schedule, until=0.5, every=2)))
    total = run.masks.total
    assert [m.alive for m in spy.seen[1:]] == [keep_count(schedule(s / 10), total) for s in (2, 4, 6, 8, 10)]
    assert all(b <= a for a, b in pairwise(spy.seen))
    assert zeros(run)


@pytest.mark.parametrize("rule", [Set(zeta=0.3, every=3), RigL(every=3)])
def test_swaps_keep_the_count_of_every_layer(rule, monkeypatch):
    run = start()
    run.do(Prune(0.8, Magnitude(), Lamp()))
    before = run.masks
    spy = Spy(run, monkeypatch)
    run.do(Train(12, Constant(0.05), rule=rule))
    assert len(spy.seen) > 2
    assert all(m.counts == before.counts for m in spy.seen)
    assert run.masks != before
    assert zeros(run)


def test_rigl_wakes_the_largest_gradient_and_drops_the_smallest_weight():
    """One layer of four weights, two alive: 0.1 leaves, and of the dead the one with gradient 3 comes."""
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.1, 0.0, 0.0]]))
    run = Run(model, task(), Masks({"weight": torch.tensor([[True, True, False, False]])}))
    run.live = {"weight": torch.tensor([[0.0, 0.0, -3.0, 2.0]])}
    RigL(every=1, until=1.0, fraction=Constant(0.5)).after_backward(run, 1, 10)
    assert run.masks["weight"].tolist() == [[True, False, True, False]]
    assert model.weight.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_sprout_goes_past_the_target_and_comes_back(monkeypatch):
    run = start()
    spy = Spy(run, monkeypatch)
    run.do(Train(40, Constant(0.02), rule=Sprout(keep=60, stump=0.5, down=0.5, up=0.75, every=2)))
    alive = [m.alive for m in spy.seen]
    low = alive.index(min(alive))
    assert alive[low] == 30
    assert run.masks.alive == 60
    assert alive[: low + 1] == sorted(alive[: low + 1], reverse=True)
    assert all(a <= b for a, b in pairwise(spy.seen[low:])), "regrowth lost a weight"
    assert zeros(run)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_sprout_arrives_however_short_the_training(steps):
    run = start()
    run.do(Train(steps, Constant(0.02), rule=Sprout(keep=60)))
    assert run.masks.alive == 60


def test_sprout_wakes_with_the_value_of_the_cut():
    """A weight that would help (its gradient pulls it back to where it was cut) wakes with that value."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.5, 0.4]]))
    run = Run(model, task())
    rule = Sprout(keep=2, stump=0.5, down=0.1, up=0.2, every=1, floor=0, allocate=Global())
    rule.begin(run, 10)
    run.live = {"weight": torch.tensor([[0.0, 1.0, -1.0]])}
    rule.after_backward(run, 0, 10)
    assert run.masks.alive == 3
    rule.after_backward(run, 1, 10)
    assert run.masks["weight"].tolist() == [[True, False, False]]
    rule.after_backward(run, 2, 10)
    assert run.masks["weight"].tolist() == [[True, False, True]]
    assert model.weight.tolist()[0] == pytest.approx([2.0, 0.0, 0.4])


def test_recover_verbs():
    assert [type(s).__name__ for s in WeightRewind()(7)] == ["Rewind", "Train"]
    assert LrRewind()(7)[0].steps == 7  # type: ignore[attr-defined]
    assert Finetune()(7)[0].optimizer == Optimizer("adamw")  # type: ignore[attr-defined]


def test_weight_rewinding_restores_survivors_exactly():
    run = start()
    first = {n: w.detach().clone() for n, w in run.weights().items()}
    run.do(Train(3, Constant(0.1)))
    run.do(Prune(0.5, Magnitude(), Global()))
    run.do(WeightRewind()(1)[0])
    for name, weight in run.weights().items():
        assert torch.equal(weight.detach(), first[name] * run.masks[name])


def test_curve_leaves_the_run_alone():
    run = start()
    before = {n: t.clone() for n, t in run.model.state_dict().items()}
    found = run.do(Search(OneWayCurve(sparsities=(0.5, 0.9, 0.99), steps=2)))
    assert [s for s, _ in found["curve"]] == [0.5, 0.9, 0.99]
    assert found["cliff"] is None  # three points are too few to bend
    assert all(torch.equal(t, before[n]) for n, t in run.model.state_dict().items())
    assert run.trained == 0
    assert run.searched == 6


def test_damage_names_the_layer_that_was_hurt():
    run = start()
    masks = run.masks
    hurt = torch.zeros_like(masks["3.weight"])
    hurt[:, 0, 0, 0] = True
    run.set_masks(Masks({**masks, "3.weight": hurt}))
    found = run.do(Search(Damage()))
    assert found["layers"] == ["3.weight"]
    assert found["similarity"]["0.weight"] == pytest.approx(1.0, abs=1e-5)


def test_policy_gradient_learns_where_the_reward_is(monkeypatch):
    """With a reward for the second layer only, the controller's choices drift to allocations that favour it."""
    run = start()
    run.do(Prune(0.9, Magnitude(), Global(), floor=1))
    chosen: list[int] = []
    sample = Controller.sample

    def spy(self, *args):
        counts, log, entropy = sample(self, *args)
        chosen.append(counts[1])
        return counts, log, entropy

    monkeypatch.setattr(Controller, "sample", spy)
    monkeypatch.setattr(PolicyGradient, "_try", lambda self, run, counts, budget: (counts[1] / 20, 0.5))
    search = PolicyGradient(
        tuple(run.masks)[:2], (20,), ((0.0, 1.0), (1.0, 0.0)), episodes=250, patience=250, lr=0.01, entropy=(0.1, 0.0)
    )
    found = run.do(Search(search))
    assert sum(chosen[-20:]) > 1.5 * sum(chosen[:20])
    assert found["grow"][search.layers[1]] == max(chosen)
    assert found["reward"] == max(chosen) / 20


def test_policy_gradient_tries_for_real():
    run = start()
    run.do(Prune(0.9, Magnitude(), Global(), floor=1))
    search = PolicyGradient(tuple(run.masks)[:2], (5, 10), ((0.0, 0.9), (1.0, 0.5)), epochs=0.2, episodes=2)
    found = run.do(Search(search))
    assert sum(found["grow"].values()) <= 10
    assert run.searched > 0
    assert run.masks.alive == keep_count(0.9, run.masks.total)


SHORT: list[Recipe] = [
    OneWay(epochs=2, every=2),
    OneWay(epochs=2, mode="iterative", rounds=2),
    OneWay(epochs=2, mode="oneshot"),
    BidirectionalGradual(epochs=2, every=2),
    BidirectionalIterative(epochs=4, allocator="proportional"),
    BidirectionalIterative(epochs=4, allocator="greedy", rounds=2),
    BidirectionalIterative(epochs=4, controller=(2, 0.2), rounds=2),
    BidirectionalOneshot(epochs=4, path=BidirectionalIterative(rate=0.999999, allocator="global")),
    LthImp(epochs=3, rate=0.5),
]


@pytest.mark.parametrize("recipe", SHORT, ids=repr)
def test_recipes_meet_several_budgets_exactly(recipe):
    run = start()
    budgets = [rs.Nonzero(120), rs.Nonzero(300)]
    recipe(run, budgets)
    for budget in budgets:
        arrived = next(r for r in run.journal if r.get("budget") == str(budget))
        assert arrived["alive"] == budget.count
    steps = recipe.epochs * run.task.steps_per_epoch  # type: ignore[attr-defined]
    if isinstance(recipe, OneWay):
        assert run.trained == steps
    if isinstance(recipe, BidirectionalGradual):
        assert run.trained == steps * (1 + recipe.more)
    if isinstance(recipe, BidirectionalIterative):
        assert abs(run.trained - steps) <= 6  # whole steps in every round


class Stop(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("recipe", SHORT, ids=repr)
def test_recipes_resume_after_any_step(recipe, tmp_path):
    """A recipe decides in the same way when it is replayed, although the network is further on by then."""

    def walk(folder: RunFolder | None, stop: int) -> Run:
        def report(event, facts):
            if event == "step" and len(run.journal) == stop and "resumed" not in facts:
                raise Stop

        run = Run(net(), task(), probe_batches=2, folder=folder, report=report)
        run.resume()
        for name in ("start", "dense"):
            run.do(Mark(name))
        recipe(run, [rs.Nonzero(120), rs.Nonzero(300)])
        return run

    whole = walk(None, -1)
    folder = RunFolder(tmp_path, "run", {"recipe": repr(recipe)})
    with folder.lock():
        for stop in range(3, len(whole.journal), 4):
            with pytest.raises(Stop):
                walk(folder, stop)
        run = walk(folder, -1)
    assert run.masks == whole.masks
    assert all(torch.equal(t, whole.model.state_dict()[n]) for n, t in run.model.state_dict().items())


def test_lottery_tickets_nest_and_start_from_the_initialisation(monkeypatch):
    """The catalogue's check: survivors equal theta_0 exactly after each reset, masks nest, density 0.8^r."""
    run = start()
    first = {n: w.detach().clone() for n, w in run.weights().items()}
    seen: list[Masks] = []
    restore = run.restore

    def spy(name, masks=True):
        restore(name, masks)
        seen.append(run.masks)
        assert all(torch.equal(w.detach(), first[n] * run.masks[n]) for n, w in run.weights().items())

    monkeypatch.setattr(run, "restore", spy)
    total = run.masks.total
    LthImp(epochs=6)(run, [rs.Nonzero(round(0.8**5 * total))])
    assert [m.alive for m in seen] == pytest.approx([0.8**r * total for r in range(1, 6)], abs=3)
    assert all(b <= a for a, b in pairwise(seen))


def test_frontier_nests_upwards():
    run = start()
    BidirectionalGradual(epochs=2, every=2)(run, [rs.Nonzero(120), rs.Nonzero(300)])
    small, large = (Masks({n: run.points[f"budget-{k}-nonzero"][f"mask:{n}"] for n in run.masks}) for k in (120, 300))
    assert small <= large


def test_bytes_are_used_to_the_last_weight():
    run = start()
    BidirectionalGradual(epochs=2, every=2)(run, [rs.Bytes(2600)])
    cost = run.journal[-1]["cost"]
    assert cost <= 2600
    assert cost > 2600 - 8  # one more weight takes 2 bytes of value, 1 of place, and padding


def test_a_budget_below_the_dense_part_says_how_near_one_gets():
    run = start()
    with pytest.raises(rs.BudgetError, match=r"cannot be met.*stay dense"):
        run.do(Meet(rs.Bytes(100), Magnitude(), Lamp(), floor=1, try_only=True))


def test_paper_protocol_is_labelled():
    run = start()
    BidirectionalIterative(epochs=2, allocator="global", paper_protocol=True)(run, [rs.Nonzero(100)])
    assert run.chooses_on == "test"


def test_reprs_are_configurations():
    for recipe in SHORT:
        scope = {c.__name__: c for c in _classes(recipe)}
        assert eval(repr(recipe), scope) == recipe


def _classes(value: object) -> list[type]:
    found = [type(value)]
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        found += _classes(getattr(value, field.name))
    return found


def test_one_way_is_one_way(monkeypatch):
    run = start()
    spy = Spy(run, monkeypatch)
    OneWay(epochs=2, every=2)(run, [rs.Sparsity(0.9)])
    assert all(b <= a for a, b in pairwise(spy.seen))
    assert run.masks.alive == math.floor(0.1 * run.masks.total + 1e-6)
