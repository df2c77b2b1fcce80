"""Rewinding and particles: plain tickets at k = 0, one particle is rewinding, means keep the ticket."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.evaluate.stability import apart
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.imp_rewind import ImpRewind
from resprout.methods.recipe.lth_imp import LthImp
from resprout.methods.recipe.swamp import Swamp
from resprout.methods.recover.particles import Average, Particles
from resprout.methods.recover.weight_rewind import WeightRewind
from resprout.methods.rule.swa import Swa
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.magnitude import Magnitude

LR = Cosine(0.1, 0.0, warmup=0.05)


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) > 0).long()
    return rs.Arrays((x, y), (x[:32], y[:32]), (x[:32], y[:32]), batch_size=16, name="tiny")


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)
    )


def start(**given) -> Run:
    run = Run(net(), task(), probe_batches=2, **given)
    run.do(Mark("start"))
    return run


def same(a: Run, b: Run) -> bool:
    other = b.model.state_dict()
    return a.masks == b.masks and all(torch.equal(t, other[n]) for n, t in a.model.state_dict().items())


def test_rewinding_to_the_initialisation_is_the_lottery_ticket_bit_for_bit():
    new, old = start(), start()
    ImpRewind(epochs=6, early=0.0, rate=0.4)(new, [rs.Nonzero(150)])
    first = next(r for r in new.journal if r["step"] == "Train")
    steps = first["trained"]
    old.do(Train(steps, LR))
    rounds = new.trained - steps
    LthImp(epochs=rounds / 6, rate=0.4)(old, [rs.Nonzero(150)])
    assert new.trained == old.trained
    assert same(new, old)


def test_rounds_go_back_to_the_early_point_exactly_and_nest(monkeypatch):
    run = start()
    seen: list[Masks] = []
    restore = run.restore

    def spy(name, masks=True):
        restore(name, masks)
        if name == "early":
            early = run.tensors_at("early")
            assert all(torch.equal(w.detach(), early[n] * run.masks[n]) for n, w in run.weights().items())
            seen.append(run.masks)

    monkeypatch.setattr(run, "restore", spy)
    total = run.masks.total
    ImpRewind(epochs=16, early=0.25)(run, [rs.Nonzero(round(0.8**4 * total))])
    assert [m.alive for m in seen] == pytest.approx([0.8**r * total for r in range(5)], abs=3)
    assert all(b <= a for a, b in pairwise(seen))
    trainings = [r for r in run.journal if r["step"] == "Train"]
    early, rest = trainings[0]["trained"], trainings[1]["trained"] - trainings[0]["trained"]
    assert rest == pytest.approx(3 * early, abs=2)
    assert run.trained == early + 5 * rest


def test_early_rewinding_is_not_the_initialisation():
    run, other = start(), start()
    ImpRewind(epochs=6, early=0.2, rate=0.4)(run, [rs.Nonzero(150)])
    ImpRewind(epochs=6, early=0.0, rate=0.4)(other, [rs.Nonzero(150)])
    assert not same(run, other)


@pytest.mark.parametrize("make", [LthImp, ImpRewind, Swamp])
@pytest.mark.parametrize(
    ("given", "says"), [({"rate": 0.0}, "rate"), ({"rate": 1.0}, "rate"), ({"epochs": float("nan")}, "epochs")]
)
def test_rounds_that_would_never_end_are_refused(make, given, says):
    with pytest.raises(ResproutError, match=says):
        make(**given)


def test_settings_that_are_none_are_named():
    with pytest.raises(ResproutError, match="early"):
        ImpRewind(early=1.0)
    with pytest.raises(ResproutError, match="particles"):
        Swamp(particles=0)


@pytest.mark.parametrize("early", [0.0, 0.2])
def test_one_particle_without_averaging_is_rewinding_exactly(early):
    one, imp = start(), start()
    Swamp(epochs=6, early=early, particles=1, average=0.0, rate=0.4, lr=LR)(one, [rs.Nonzero(150)])
    ImpRewind(epochs=6, early=early, rate=0.4, lr=LR)(imp, [rs.Nonzero(150)])
    assert same(one, imp)
    assert [type(s).__name__ for s in Particles(particles=1)(7)] == [type(s).__name__ for s in WeightRewind()(7)]


def test_swamp_meets_its_budgets_and_its_epochs():
    run = start()
    recipe = Swamp(epochs=12, early=0.1, particles=3, rate=0.4)
    budgets = [rs.Nonzero(150), rs.Nonzero(60)]
    recipe(run, budgets)
    for budget in budgets:
        assert next(r for r in run.journal if r.get("budget") == str(budget))["alive"] == budget.count
    assert 0.7 * 12 * run.task.steps_per_epoch < run.trained <= 12 * run.task.steps_per_epoch  # rounds are whole steps
    for record in run.journal:
        if record["step"] == "Average":
            assert min(record["off"]) > 0


def test_the_mean_of_particles_keeps_the_ticket_and_refuses_other_tickets():
    run = start()
    run.do(Prune(0.8, Magnitude(), Global()))
    ticket = run.masks
    for step in Particles(particles=3)(12):
        run.do(step)
    assert run.masks == ticket
    mean = {n: w.detach().clone() for n, w in run.weights().items()}
    states = [run.tensors_at(f"particle-{i}") for i in range(3)]
    for name, weight in mean.items():
        assert torch.allclose(weight, torch.stack([s[name] for s in states]).mean(0))
        assert bool((weight[~ticket[name]] == 0).all())
    run.do(Prune(0.9, Magnitude(), Global()))
    run.do(Mark("other"))
    with pytest.raises(ResproutError, match="one ticket"):
        run.do(Average(("particle-0", "other")))


class Noisy(nn.Module):
    """A quadratic whose gradient is noisy: loss = |w - x|^2 / 2 with x around 0."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(200, 1, bias=False)


class Quadratic(rs.Task):
    @property
    def steps_per_epoch(self) -> int:
        return 50

    def batches(self, split, *, seed=0, epoch=0, start=0, shard=(0, 1)):
        g = torch.Generator().manual_seed(1000 * epoch + seed % 1000)
        yield from (torch.randn(1, 200, generator=g) for _ in range(50 - start))

    def loss(self, model, batch):
        return (model.layer.weight - batch).square().sum() / 2

    def evaluate(self, model, split):
        return {"accuracy": 0.0}


def test_the_variance_of_the_mean_of_n_particles_is_an_nth():
    found = {}
    for count in (1, 4):
        model = Noisy()
        run = Run(model, Quadratic(), Masks.dense(model))
        run.do(Mark("start"))
        given = Particles("start", count, Constant(0.2), Optimizer(momentum=0, decay=0), average=0.0)
        for step in given(50 * count):
            run.do(step)
        found[count] = float(model.layer.weight.detach().square().mean())
    assert found[1] / found[4] == pytest.approx(4, rel=0.35)


def test_weight_averaging_is_the_mean_of_the_last_steps_and_resumes(tmp_path):
    run = start()
    seen: list[dict[str, torch.Tensor]] = []

    class Spy(Swa):
        def after_step(self, run, step, steps):
            super().after_step(run, step, steps)
            seen.append({n: w.detach().double().clone() for n, w in run.model.named_parameters()})

    run.do(Train(8, Constant(0.1), rule=Spy(share=0.5)))
    for name, weight in run.model.named_parameters():
        assert torch.allclose(weight.double(), torch.stack([s[name] for s in seen[4:]]).mean(0), atol=1e-6)

    class Stop(Exception):
        pass

    def walk(stop: int) -> Run:
        def report(event, facts):
            if event == "train" and facts["step"] == stop:
                raise Stop

        folder = RunFolder(tmp_path, "swa", {})
        run = Run(net(), task(), probe_batches=2, folder=folder, report=report, save_every=0.0)
        with folder.lock():
            run.resume()
            run.do(Mark("start"))
            run.do(Train(8, Constant(0.1), rule=Swa(share=0.5)))
        return run

    with pytest.raises(Stop):
        walk(7)
    assert same(walk(-1), run)


def test_distance_and_angle_by_hand():
    masks = Masks({"w": torch.tensor([True, True, False])})
    found = apart({"w": torch.tensor([3.0, 0.0, 9.0])}, {"w": torch.tensor([0.0, 4.0, -9.0])}, masks)
    assert (found.distance, found.angle) == pytest.approx((5.0, 90.0))
    with pytest.raises(ResproutError, match="alive"):
        apart({}, {}, Masks({}))
