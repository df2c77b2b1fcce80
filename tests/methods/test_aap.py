"""The adaptive policies of activation-based pruning, against accuracies that a script hands out."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.budget import Nonzero, Sparsity
from resprout.core.errors import ResproutError
from resprout.core.granularity import Units, Weight
from resprout.core.kinds import Recover, Step
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.store import RunFolder
from resprout.core.units import Group, Slot
from resprout.methods.recipe._threshold import Cut, unit_scores
from resprout.methods.recipe.aap import Aap
from resprout.methods.recover.finetune import Finetune
from resprout.methods.score.attention_map import AttentionMap

HIDDEN = 20


@dataclass(frozen=True)
class Rest(Recover):
    """No training at all, so that scores stand still."""

    def __call__(self, steps: int) -> tuple[Step, ...]:
        return ()


def start(granularity=None, folder=None) -> Run:
    """Hidden unit i puts out i / 10 whatever the input: the attention of unit 0 is 0, and that of unit 19 is 1.9."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e-9)
        model[0].bias.copy_(torch.arange(HIDDEN) / 10)
    x, y = torch.zeros(32, 2), torch.zeros(32, dtype=torch.long)
    each = torch.arange(HIDDEN)[:, None]
    group = Group("hidden", "channel", (Slot("0.weight", 0, each), Slot("0.bias", 0, each), Slot("2.weight", 1, each)))
    task = rs.Arrays((x, y), (x, y), (x, y), batch_size=16, name="toy")
    run = Run(model, task, probe_batches=1, granularity=granularity or Units("channel"), groups=(group,), folder=folder)
    run.resume()
    run.do(Mark("dense"))
    return run


def script(run: Run, monkeypatch: pytest.MonkeyPatch, fall: int) -> list[tuple[int, float]]:
    """From `fall` hidden units down, each unit lost costs 0.02 of accuracy; above, none does. Returns what is seen."""
    seen: list[tuple[int, float]] = []

    def evaluate(split=None) -> float:
        left = run.units.alive
        seen.append((left, 0.9 - 0.02 * max(0, fall - left)))
        return seen[-1][1]

    monkeypatch.setattr(run, "evaluate", evaluate)
    return seen


def test_units_are_cut_below_a_threshold_and_a_floor_stays():
    run = start()
    assert unit_scores(run.probe(), AttentionMap())["hidden"].tolist() == pytest.approx([i / 10 for i in range(HIDDEN)])
    facts = run.do(Cut(0.55, AttentionMap(), try_only=True))
    assert (facts["left"], facts["may_go"], facts["mean"]) == (14, 13, pytest.approx(0.95))
    assert run.units.alive == HIDDEN
    run.do(Cut(0.55, AttentionMap()))
    assert run.units["hidden"].tolist() == [False] * 6 + [True] * 14
    assert run.do(Cut(99, AttentionMap(), floor=3))["left"] == 3
    assert run.units["hidden"].nonzero().flatten().tolist() == [17, 18, 19]


@pytest.mark.parametrize(("fall", "drop", "best"), [(12, 0.05, 10), (12, 0.0, 12), (20, 0.1, 15), (0, 0.0, 1)])
def test_the_accuracy_policy_stops_at_the_smallest_network_within_the_drop(fall, drop, best, monkeypatch):
    """`best` by hand: `fall` less as many units as `drop` pays for, at 0.02 each."""
    run = start()
    seen = script(run, monkeypatch, fall)
    Aap(drop=drop, rounds=40, increment=0.3, tolerance=0.01, recover=Rest())(run, [Sparsity(0.0)])
    assert run.units.alive == best
    assert run.evaluate() >= 0.9 - drop - 1e-9
    rolled_back = [step for step in run.journal if step["step"] == "Rewind"]
    assert bool(rolled_back) == (fall > 0)
    assert any(value < 0.9 - drop - 1e-9 for _, value in seen) == (fall > 0)


def test_the_increment_is_halved_at_each_roll_back(monkeypatch):
    """The mean is 0.95; at 0.8 of it 12 units are left, which is good, and every larger threshold is too much."""
    run = start()
    script(run, monkeypatch, 12)
    Aap(drop=0.0, rounds=40, increment=0.4, tolerance=0.03, recover=Rest())(run, [])
    cuts = [s["do"] for s in run.journal if s["step"] == "Cut"][1:]  # the first one only measures the mean
    tried = [float(re.search(r"threshold=([^,]+),", cut)[1]) / 0.95 for cut in cuts]  # pyright: ignore
    assert tried == pytest.approx([0.4, 0.8, 1.2, 1.0, 0.9, 0.85], rel=1e-6)
    assert [s["step"] for s in run.journal].count("Rewind") == 4
    assert run.units.alive == 12


@pytest.mark.parametrize("rounds", [1, 2, 16])
def test_a_budget_is_met_exactly_by_the_lowest_units(rounds, monkeypatch):
    """Each unit holds 2 + 2 weights: 33 of them allow 8 units."""
    run = start()
    script(run, monkeypatch, 0)
    Aap(rounds=rounds, increment=0.25, recover=Rest())(run, [Nonzero(33)])
    assert run.units["hidden"].tolist() == [False] * 12 + [True] * 8
    assert run.masks.alive == 32
    assert run.journal[-1]["step"] == "Arrive"
    assert sum(s["step"] == "Cut" and s.get("died", 0) > 0 for s in run.journal) == {1: 1, 2: 2, 16: 5}[rounds]


def test_budgets_are_walked_from_the_largest(monkeypatch):
    run = start()
    script(run, monkeypatch, 0)
    Aap(rounds=8, recover=Rest())(run, [Nonzero(20), Nonzero(60)])
    assert [s["alive"] for s in run.journal if s["step"] == "Arrive"] == [60, 20]


def test_it_rewinds_and_trains_each_round():
    run = start()
    run.do(Mark("start"))
    Aap(epochs=4, rounds=2, increment=0.25)(run, [Nonzero(40)])
    assert [s["step"] for s in run.journal[-8:]].count("Rewind") == 2
    assert run.trained == 4 * run.task.steps_per_epoch
    assert run.masks.alive <= 40


class Stop(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("drop", [None, 0.05])
def test_it_resumes_after_any_step(drop, tmp_path, monkeypatch):
    recipe = Aap(epochs=6, drop=drop, rounds=6, increment=0.4, recover=Finetune())

    def walk(folder: RunFolder | None, stop: int) -> Run:
        def report(event, facts):
            if event == "step" and len(run.journal) == stop and "resumed" not in facts:
                raise Stop

        run = start(folder=folder)
        run.report = report
        script(run, monkeypatch, 12)
        recipe(run, [Nonzero(60)])
        return run

    whole = walk(None, -1)
    folder = RunFolder(tmp_path, "run", {"recipe": repr(recipe)})
    with folder.lock():
        for stop in range(2, len(whole.journal), 2):
            with pytest.raises(Stop):
                walk(folder, stop)
        run = walk(folder, -1)
    assert run.masks == whole.masks
    assert all(torch.equal(t, whole.model.state_dict()[n]) for n, t in run.model.state_dict().items())


def test_it_needs_units():
    run = start(Weight())
    with pytest.raises(ResproutError, match="granularity='channel'"):
        Aap()(run, [Nonzero(20)])
    with pytest.raises(ResproutError, match="positive"):
        Aap(rounds=0)
