"""An agent pruned while it learns: the world, the diagnostics, the schedule within play, and a run that is killed within."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.errors import ResproutError
from resprout.core.run import Run
from resprout.core.store import RunFolder
from resprout.methods.rule.gradual import Gradual
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic
from resprout.reinforcement._steps import TARGET, Diagnose, Play
from resprout.reinforcement.diagnostics import dormant, interval, iqm, srank
from resprout.reinforcement.rl_gmp import RlGmp
from resprout.tasks.cartpole import Cartpole


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def world() -> Cartpole:
    return Cartpole(longest=30, games=4, batch_size=8, steps_per_epoch=40)


def play(steps: int, **given: Any) -> Play:
    return Play(steps, Constant(1e-3), players=2, memory=300, batch=8, warm=20, copy=7, looks=2, **given)


def test_a_push_obeys_the_equations_of_motion():
    """One tick from rest, upright, pushed right: by Barto, Sutton and Anderson's equations."""
    task = Cartpole()
    answer = task.act(torch.zeros(1, 5), torch.tensor([1]))
    assert answer.state[0, :4].tolist() == pytest.approx([0.0, 0.195122, 0.0, -0.292683], abs=1e-6)
    assert not bool(answer.over)
    fallen = task.act(
        torch.tensor([[0.0, 0, 0.2, 3.0, 7], [2.39, 1.0, 0, 0, 7], [0, 0, 0, 0, 199.0]]), torch.tensor([0, 1, 1])
    )
    assert fallen.ended.tolist() == [True, True, False]
    assert fallen.over.tolist() == [True, True, True]


def test_games_by_chance_last_as_long_as_they_are_known_to():
    task, g = Cartpole(longest=500), torch.Generator().manual_seed(0)
    state, total = task.begin(400, g), 0
    alive = torch.ones(400, dtype=torch.bool)
    while bool(alive.any()):
        answer = task.act(state, torch.randint(2, (400,), generator=g))
        total += int(alive.sum())
        state, alive = answer.state, alive & ~answer.over
    assert total / 400 == pytest.approx(22.2, abs=2.0)


def test_the_worth_of_what_was_done_is_the_discounted_sum_of_what_came():
    task = Cartpole(longest=5, gamma=0.5, batch_size=500)
    seen, action, worth = next(iter(task.batches("train")))
    assert seen.shape == (500, 4)
    assert set(action.tolist()) == {0, 1}
    assert set(worth.tolist()) <= {1.0, 1.5, 1.75, 1.875, 1.9375}  # nothing falls within five moves


def test_sparsity_is_zero_at_a_fifth_and_all_there_at_four_fifths():
    run, steps, seen = Run(net(), world()), 50, []
    rule = Gradual(Cubic(0.0, 0.95), None, until=0.8, every=2, since=0.2)
    run.report = lambda event, facts: seen.append(run.masks.sparsity) if event == "train" else None
    run.do(play(steps, rule=rule))
    assert seen[:11] == [0.0] * 11
    assert seen[12] > 0
    assert seen == sorted(seen)
    assert seen[39] < 0.95 - 1e-6
    assert seen[40:] == [pytest.approx(0.95, abs=2e-3)] * 10
    assert seen[25] == pytest.approx(0.95 * (1 - (1 - (24 - 10) / 30) ** 3), abs=0.01)
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())


def test_the_older_network_has_the_masks_of_its_time():
    run, older = Run(net(), world()), []

    def tell(event: str, facts: dict[str, Any]) -> None:
        if event == "train":
            older.append({n: run.slots[TARGET + n].clone() for n in run.masks})

    run.report = tell
    run.do(play(21, rule=Gradual(Cubic(0.5, 0.9), None, until=0.1, every=1)))
    for name, mask in run.masks.items():
        assert torch.equal(older[7][name], older[12][name])
        assert not older[20][name][~mask].any()
        assert torch.equal(older[20][name], run.model.get_parameter(name))
    assert not run.slots


def test_a_run_killed_within_play_ends_bit_for_bit_the_same(tmp_path):
    def go(folder: str, kill: int | None = None) -> Run:
        run = Run(net(), world(), folder=RunFolder(tmp_path, folder, {}), save_every=0.0)
        if kill is not None:

            def stop(event: str, facts: dict[str, Any]) -> None:
                if event == "train" and facts["step"] == kill:
                    raise KeyboardInterrupt

            run.report = stop
        run.resume()
        run.do(play(24, rule=Gradual(Cubic(0.0, 0.8), None, until=0.8, every=3, since=0.2)))
        return run

    whole = go("whole")
    with pytest.raises(KeyboardInterrupt):
        go("cut", 13)
    again = go("cut")
    assert again.masks == whole.masks
    assert all(torch.equal(t, again.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


class Drawing(nn.Module):
    """Draws while it learns, and only then."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.body(x))


def test_only_what_learns_draws_and_the_run_decides_what():
    def played(luck: int) -> Run:
        run = Run(Drawing(), world())
        torch.manual_seed(luck)
        run.do(play(6))
        return run

    one, other = played(1), played(2)
    assert all(torch.equal(t, other.model.state_dict()[n]) for n, t in one.model.state_dict().items())
    assert int(one.model.state_dict()["body.1.num_batches_tracked"]) == 6  # neither moves nor targets count


def test_rl_gmp_meets_its_budgets_and_looks_at_the_agent():
    run = Run(net(), world())
    RlGmp(epochs=1, every=2)(run, [Budget.parse("0.9"), Budget.parse("0.5")])
    assert [round(r["sparsity"], 2) for r in run.journal if r["step"] == "Arrive"] == [0.5, 0.9]
    looked = [r for r in run.journal if r["step"] == "Diagnose"]
    assert len(looked) == 2
    assert all(1 <= r["srank"] <= 16 and 0 <= r["dormant"] <= 1 and r["norm"] > 0 for r in looked)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_rank_of_a_matrix_of_rank_k_is_k(k):
    left, right = (torch.linalg.qr(torch.randn(n, k, generator=torch.Generator().manual_seed(n)))[0] for n in (40, 12))
    assert srank(left @ right.T) == k
    assert srank(torch.zeros(5, 5)) == 0


def test_rank_leaves_out_the_last_hundredth():
    assert srank(torch.diag(torch.tensor([98.0, 1.5, 0.5]))) == 2


def test_the_iqm_is_the_trimmed_mean():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    assert iqm(np.array([[0.0, 1, 2, 3], [4, 5, 6, 100]])) == 3.5
    for shape in ((3, 5), (7, 1), (2, 11)):
        scores = rng.normal(size=shape)
        assert iqm(scores) == pytest.approx(stats.trim_mean(scores.reshape(-1), 0.25))


def test_the_interval_draws_runs_within_each_task():
    scores = np.array([[1.0, 10.0], [1.0, 10.0], [1.0, 10.0]])  # all runs alike: nothing to draw, though tasks differ
    assert interval(scores) == (5.5, 5.5)
    low, high = interval(np.random.default_rng(1).normal(size=(20, 1)))
    assert low < 0.5
    assert low < high


def test_units_that_sleep_are_counted():
    awake = torch.ones(6, 4)
    awake[:, 0] = 0.0
    awake[:, 1] = 0.05
    assert dormant({"a": awake}, tau=0.1) == 0.5
    assert dormant({"a": awake, "b": torch.ones(6, 4)}, tau=0.0) == 1 / 8


def test_an_agent_needs_a_world(tiny):
    with pytest.raises(ResproutError, match="plays in a world"):
        play(2)(Run(tiny, find.task("digits", None, "")))
    with pytest.raises(ResproutError, match="plays in a world"):
        Diagnose()(Run(tiny, find.task("digits", None, "")))
    with pytest.raises(ResproutError, match="has none"):
        Diagnose()(Run(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()), world()))


def test_settings_that_are_none_are_named():
    for given in ({"begin": 0.9}, {"until": 1.5}, {"every": 0}, {"begin": float("nan")}):
        with pytest.raises(ResproutError, match="begin"):
            RlGmp(**given)
    with pytest.raises(ResproutError, match="players"):
        Play(3, Constant(1e-3), players=0)
    with pytest.raises(ResproutError, match="runs, tasks"):
        interval(np.zeros(3))


def test_fit_knows_the_recipe(tmp_path):
    result = rs.fit(net(), world(), 0.9, recipe=RlGmp(epochs=1, every=2), curve=False, out=tmp_path)
    assert result.frontier[0].sparsity >= 0.9
    assert 0 < result.frontier[0].test <= 1


@pytest.mark.slow
def test_an_agent_of_a_tenth_of_the_weights_plays_as_well_as_a_dense_one():
    def played(sparsity: float, seed: int) -> float:
        run = Run(find.network("cartpole_mlp", None, seed), find.task("cartpole", None, ""), seed=seed)
        RlGmp(epochs=8)(run, [Budget.parse(sparsity)])
        curve = next(r["curve"] for r in run.journal if r["step"] == "Play")
        return sum(look[2] for look in curve[-3:]) / 3

    dense, pruned = ([played(s, seed) for seed in (0, 1)] for s in (0.0, 0.9))
    assert sum(pruned) > sum(dense) - 0.1
