"""GraNet: the schedule in closed form, what leaves and what comes, gradual pruning without regeneration, a kill in between."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks, keep_count
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.store import RunFolder
from resprout.core.train import Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.granet import Granet
from resprout.methods.recipe.one_way import OneWay
from resprout.methods.rule.neuroregeneration import Neuroregeneration
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic
from resprout.methods.score.magnitude import Magnitude


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) > 0).long()
    return rs.Arrays((x, y), (x[:32], y[:32]), (x[:32], y[:32]), batch_size=16, name="tiny")


def start(**given) -> Run:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2),
    )  # fmt: skip
    run = Run(net, task(), probe_batches=2, **given)
    run.do(Mark("start"))
    run.do(Mark("dense"))
    return run


def same(a: Run, b: Run) -> bool:
    other = b.model.state_dict()
    return a.masks == b.masks and all(torch.equal(t, other[n]) for n, t in a.model.state_dict().items())


def test_without_regeneration_it_is_gradual_magnitude_pruning_bit_for_bit():
    new, old = start(), start()
    Granet(epochs=4, every=2, fraction=Constant(0.0))(new, [rs.Nonzero(200)])
    OneWay(epochs=4, every=2, score=Magnitude(), allocate=Global())(old, [rs.Nonzero(200)])
    assert same(new, old)


def test_density_follows_the_schedule_and_a_swap_keeps_every_layers_count(monkeypatch):
    run = start()
    seen: list[Masks] = [run.masks]
    put, gradients = run.set_masks, []

    def spy(masks, *args, **more):
        gradients.append({n: g.clone() for n, g in (run.live or {}).items()})
        seen.append(masks)
        return put(masks, *args, **more)

    monkeypatch.setattr(run, "set_masks", spy)
    schedule = Cubic(0.0, 0.9)
    run.do(Train(20, Constant(0.05), rule=Neuroregeneration(schedule, until=0.5, every=2, floor=5)))
    cuts = [1, 3, 5, 7, 9]  # at steps 2, 4, ..., 10 (at 0 nothing leaves), with swaps from step 2 to step 16
    swaps = [2, 4, 6, 8, 10, 11, 12, 13]
    assert len(seen) == 14
    assert [seen[i].alive for i in cuts] == [keep_count(schedule(s / 10), run.masks.total) for s in (2, 4, 6, 8, 10)]
    for i in swaps:
        assert seen[i].counts == seen[i - 1].counts, "a swap changes no density"
        born, gone = seen[i] - seen[i - 1], seen[i - 1] - seen[i]
        assert born.counts == gone.counts
        assert born.alive or i == 13, "nothing moved"
        for name, b in born.items():
            if bool(b.any()):  # of what is dead afterwards none had a larger gradient than what came
                size = gradients[i - 1][name].abs()
                assert size[b].min() >= size[~seen[i][name]].max()
    assert all(bool((w.detach()[~run.masks[n]] == 0).all()) for n, w in run.weights().items())


def test_the_swapped_share_falls_and_stops():
    rule = Neuroregeneration(Cubic(0.0, 0.9))
    shares = [rule.fraction(t / 10) for t in range(11)]
    assert shares[0] == 0.5
    assert shares[-1] == 0.005
    assert all(b < a for a, b in pairwise(shares))


def test_sparse_to_sparse_begins_at_the_initial_density_from_the_start():
    run = start()
    Granet(epochs=4, every=2, initial=0.5, fresh=True)(run, [rs.Nonzero(300), rs.Nonzero(120)])
    first = next(r for r in run.journal if r["step"] == "Prune")
    assert first["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert [r["alive"] for r in run.journal if r["step"] == "Arrive"] == [300, 120]
    with pytest.raises(ResproutError, match="initial"):
        Granet(initial=0.1)(start(), [rs.Sparsity(0.5)])


class Stop(Exception):
    """Stands for a kill."""


def test_a_kill_in_the_middle_of_training_changes_nothing(tmp_path):
    recipe = Granet(epochs=4, every=2)

    whole = start()
    recipe(whole, [rs.Nonzero(200)])
    folder = RunFolder(tmp_path, "run", {})
    with folder.lock():
        for stop in (4, 9, 15, -1):

            def report(event, facts, stop=stop):
                if event == "train" and facts["step"] == stop:
                    raise Stop

            run = Run(start().model, task(), probe_batches=2, folder=folder, report=report, save_every=0.0)
            run.resume()
            try:
                run.do(Mark("start"))
                run.do(Mark("dense"))
                recipe(run, [rs.Nonzero(200)])
            except Stop:
                continue
    assert same(run, whole)
