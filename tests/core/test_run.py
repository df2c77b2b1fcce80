"""`Run` and the verbs: exact counts, nesting, points, the journal."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.kinds import Rule, Score, Searcher, Step
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Arrive, Mark, Meet, Prune, Regrow, Rewind, Search
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.erk import Erk
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.lamp import Lamp
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.fill.anchor import Anchor
from resprout.methods.fill.kaiming import Kaiming
from resprout.methods.fill.zero import Zero
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.fisher import Fisher
from resprout.methods.score.gradient import Gradient
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.random import Random


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads of a network this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def task(batch_size: int = 8) -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(90, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) * 20).long().clamp(-1, 1) + 1
    parts = [(x[i::3], y[i::3]) for i in range(3)]
    return rs.Arrays(*parts, batch_size=batch_size, name="tiny")


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3)
    )  # 36 + 192 weights


TOTAL = 228


def bits(run: Run) -> dict[str, bytes]:
    return {n: t.numpy().tobytes() for n, t in run.model.state_dict().items()}


def obeys(run: Run) -> bool:
    return all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())


def test_counts_are_exact_after_each_step_and_masks_nest():
    run = Run(net(), task(), probe_batches=2)
    run.do(Mark("dense"))
    old = run.masks
    for sparsity, score, allocate in [
        (0.111, Magnitude(), Global()),
        (0.4, Fisher(), Uniform()),
        (0.7003, Random(), Erk()),
        (0.9, Magnitude(), Lamp()),
    ]:
        record = run.do(Prune(sparsity, score, allocate))
        want = TOTAL - round(sparsity * TOTAL)
        assert run.masks.alive == record["alive"] == sum(record["counts"].values()) == want
        assert record["died"] == old.alive - want
        assert record["reborn"] == 0
        assert run.masks <= old
        assert obeys(run)
        old = run.masks
    for sparsity, score, allocate, fill in [
        (0.85, Gradient(), Global(), Zero()),
        (0.6, Random(), Uniform(), Kaiming()),
        (0.0, Magnitude(), Global(), Anchor()),
    ]:
        kept = {n: w.detach().clone() for n, w in run.weights().items()}
        record = run.do(Regrow(sparsity, score, allocate, fill))
        want = TOTAL - round(sparsity * TOTAL)
        assert run.masks.alive == record["alive"] == want
        assert record["reborn"] == want - old.alive
        assert record["died"] == 0
        assert old <= run.masks
        assert obeys(run)
        for name, weight in run.weights().items():
            assert torch.equal(weight.detach()[old[name]], kept[name][old[name]])  # the living keep their values
        born = run.masks - old
        values = torch.cat([w.detach()[born[n]] for n, w in run.weights().items()])
        dense = torch.cat([run.points["dense"][n][born[n]] for n in born])
        if fill == Zero():
            assert not values.any()
        elif fill == Kaiming():
            assert values.all()
        else:
            assert torch.equal(values, dense)
        old = run.masks


def test_ties_are_broken_exactly():
    model = net()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    run = Run(model, task())
    for sparsity in (0.1, 0.5, 0.99, 1.0):
        with pytest.warns(rs.LayerDied) if sparsity > 0.9 else _nothing():
            run.do(Prune(sparsity, Magnitude(), Global()))
        assert run.masks.alive == TOTAL - round(sparsity * TOTAL)


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...


def test_the_wrong_direction_is_a_clear_error_and_changes_nothing():
    run = Run(net(), task())
    run.do(Prune(0.5, Magnitude(), Global()))
    before, masks = bits(run), run.masks
    with pytest.raises(rs.ResproutError, match="use regrow"):
        run.do(Prune(0.4, Magnitude(), Global()))
    with pytest.raises(rs.ResproutError, match="use prune"):
        run.do(Regrow(0.6, Magnitude(), Global(), Zero()))
    assert bits(run) == before
    assert run.masks is masks
    assert len(run.journal) == 1


def test_meet_goes_either_way_to_the_last_byte():
    run = Run(net(), task())
    run.do(Prune(0.5, Magnitude(), Global()))
    empty = Budget.parse("1GB").cost(run.model, run.masks - run.masks)
    for size in (int(empty) + 100, int(empty) + 400):
        budget = Budget.parse(f"{size}B")
        record = run.do(Meet(budget, Magnitude(), Global(), Zero()))
        assert 0 < record["alive"] < TOTAL
        assert record["cost"] <= size
        assert record["asked"] == f"{size}B"
        there = run.do(Arrive(budget))
        assert there["cost"] == record["cost"]
        assert there["point"] in run.points
    assert run.journal[1]["died"] > 0 == run.journal[1]["reborn"]
    assert run.journal[3]["reborn"] > 0 == run.journal[3]["died"]
    with pytest.raises(rs.BudgetError, match="cannot be met"):
        run.do(Meet(Budget.parse("10B"), Magnitude(), Global(), Zero()))
    with pytest.raises(rs.BudgetError, match="asked for 10B, and the network takes"):
        run.do(Arrive(Budget.parse("10B")))


def test_train_learns_under_the_masks():
    run = Run(net(), task(batch_size=30))
    run.do(Prune(0.3, Magnitude(), Global()))
    first = float(run.task.evaluate(run.model.eval(), "train")["loss"])
    record = run.do(Train(60, Linear(0.1, 0.0), looks=3))
    assert run.trained == record["trained"] == 60
    assert [at for at, _, _ in record["curve"]] == [20, 40, 60]
    assert record["loss"] < 0.9 * first
    assert obeys(run)
    assert run.masks.alive == TOTAL - round(0.3 * TOTAL)
    assert not run.model._forward_pre_hooks
    assert run.optimizer is None


@dataclass(frozen=True)
class Peak(Rule):
    """Ruins the network in the last steps, so that the best look is not the last."""

    def after_step(self, run: Run, step: int, steps: int) -> None:
        if step >= steps - 2:
            with torch.no_grad():
                for p in run.model.parameters():
                    p.mul_(-1)
                    p[0] += 3


def test_best_keeps_the_best_look():
    run = Run(net(), task(batch_size=30))
    record = run.do(Train(40, Constant(0.05), rule=Peak(), looks=10, best=True))
    looks = [accuracy for _, _, accuracy in record["curve"]]
    assert looks[-1] < max(looks) == record["validation"] == run.evaluate()


@dataclass(frozen=True)
class Log(Rule):
    """Writes down which hooks were called, and that live gradients cover the dead."""

    calls: ClassVar[list[Any]] = []

    def begin(self, run: Run, steps: int) -> None:
        self.calls.append(("begin", steps, run.trained))

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        probe = run.probe()
        assert all(g[~run.masks[n]].any() for n, g in probe.gradients().items())
        self.calls.append(("backward", step, run.trained))

    def after_step(self, run: Run, step: int, steps: int) -> None:
        assert run.live is None
        self.calls.append(("step", step, run.trained))

    def end(self, run: Run, steps: int) -> None:
        self.calls.append(("end", steps, run.trained))


def test_the_hooks_of_a_rule_are_called_in_order():
    run = Run(net(), task())
    run.do(Prune(0.5, Magnitude(), Uniform()))
    Log.calls.clear()
    run.do(Train(2, Constant(0.1), rule=Log()))
    assert Log.calls == [
        ("begin", 2, 0), ("backward", 0, 0), ("step", 0, 1), ("backward", 1, 1), ("step", 1, 2), ("end", 2, 2)
    ]  # fmt: skip


@dataclass(frozen=True)
class Swap(Rule):
    """Swaps the masks for their complement after the third step."""

    def after_step(self, run: Run, step: int, steps: int) -> None:
        if step == 2:
            run.set_masks(~run.masks, Kaiming())


def test_a_rule_may_move_the_masks_and_momentum_starts_anew():
    run = Run(net(), task())
    run.do(Prune(0.5, Magnitude(), Uniform()))
    old = run.masks
    record = run.do(Train(6, Constant(0.05), Optimizer(momentum=0.9), rule=Swap()))
    assert run.masks == ~old
    assert obeys(run)
    assert record["alive"] == old.alive
    assert all(w.detach()[run.masks[n]].all() for n, w in run.weights().items())


def test_rewind_goes_back_under_the_masks_of_now_or_of_then():
    run = Run(net(), task())
    run.do(Mark("start"))
    start = {n: t.clone() for n, t in run.model.state_dict().items()}
    run.do(Train(4, Constant(0.1)))
    run.do(Prune(0.6, Magnitude(), Global()))
    run.do(Train(4, Constant(0.1)))
    now = run.masks
    run.do(Rewind("start"))
    assert run.masks == now
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, start[name] * now[name] if name in now else start[name])
    run.do(Rewind("start", masks=True))
    assert run.masks.sparsity == 0
    assert all(torch.equal(t, start[n]) for n, t in run.model.state_dict().items())
    with pytest.raises(rs.ResproutError, match="no point 'begin' was marked; there are: start"):
        run.do(Rewind("begin"))


@dataclass(frozen=True)
class Try(Searcher):
    """Cuts, trains and ruins a fork."""

    def __call__(self, run: Run) -> dict[str, Any]:
        twin = run.fork()
        twin.do(Prune(0.9, Magnitude(), Global(), floor=1))
        twin.do(Train(3, Constant(0.1)))
        return {"found": twin.masks.alive, "pairs": {1: (2, 3)}}


def test_a_search_works_on_forks_and_leaves_the_run_alone():
    run = Run(net(), task())
    run.do(Prune(0.2, Magnitude(), Global()))
    before, masks = bits(run), run.masks
    record = run.do(Search(Try()))
    assert record["found"] == TOTAL - round(0.9 * TOTAL)
    assert record["pairs"] == {"1": [2, 3]}  # as a resumed run will read it
    assert bits(run) == before
    assert run.masks is masks
    assert run.trained == 0
    assert len(run.journal) == 2


def test_a_fork_of_a_held_run_is_free():
    """Within a `Train` the model is held; a fork's masks are its own."""
    run = Run(net(), task())
    run.do(Prune(0.5, Magnitude(), Uniform()))
    guard = rs.hold(run.model, run.masks)
    twin = run.fork()
    twin.do(Regrow(0.1, Random(), Uniform(), Kaiming()))
    twin.model(torch.zeros(2, 1, 6, 6))
    assert sum(int(torch.count_nonzero(w)) for w in twin.weights().values()) == twin.masks.alive > run.masks.alive
    guard.release()


def test_evaluate_leaves_modes_and_random_state():
    run = Run(net(), task())
    run.model.train()
    run.model[1].eval()
    before, random = bits(run), torch.get_rng_state()
    assert run.evaluate() == run.evaluate("validation")
    assert [m.training for m in run.model.modules()] == [True, True, False, True, True, True, True]
    assert bits(run) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_bfloat16_and_channels_last_train_too():
    run = Run(net().to(memory_format=torch.channels_last), task(), precision="bf16", channels_last=True)
    run.do(Prune(0.5, Magnitude(), Uniform()))
    before = bits(run)
    run.do(Train(3, Constant(0.05)))
    assert bits(run) != before
    assert obeys(run)
    assert next(run.model.parameters()).dtype == torch.float32


# -- the journal ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count(Step):
    """Counts its real executions."""

    label: str
    done: ClassVar[list[str]] = []

    def __call__(self, run: Run) -> dict[str, Any]:
        self.done.append(self.label)
        return {"n": len(self.done)}


def walk(folder: RunFolder, labels: str) -> list[Any]:
    run = Run(net(), task(), folder=folder)
    run.resume()
    return [run.do(Count(label))["n"] for label in labels]


def test_the_journal_answers_for_steps_that_are_done(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    Count.done.clear()
    with folder.lock():
        assert walk(folder, "ab") == [1, 2]
        assert walk(folder, "abc") == [1, 2, 3]
        assert Count.done == ["a", "b", "c"]
        lines = (folder.path / "trace.jsonl").read_text().splitlines()
        assert len(lines) == 3
        (folder.path / "trace.jsonl").unlink()
        walk(folder, "abc")  # a kill may have come before the trace was written
        assert (folder.path / "trace.jsonl").read_text().splitlines() == lines


def test_a_changed_recipe_is_noticed(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    with folder.lock():
        walk(folder, "ab")
        with pytest.raises(
            rs.CheckpointError, match=r"step 1 .* was Count\(label='b'\), and now it is Count\(label='x'"
        ):
            walk(folder, "ax")


def test_a_resumed_run_has_all_points_masks_and_counters(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    steps = [
        Mark("dense"),
        Prune(0.5, Magnitude(), Global()),
        Train(3, Constant(0.1)),
        Arrive(Budget.parse("0.4")),
        Mark("dense"),
    ]
    with folder.lock():
        a = Run(net(), task(), folder=folder)
        for step in steps:
            a.do(step)
        b = Run(net(seed=8), task(), folder=folder)
        assert b.resume()
        assert [b.do(step) for step in steps] == a.journal
        assert bits(a) == bits(b)
        assert a.masks == b.masks
        assert (a.trained, a.searched) == (b.trained, b.searched)
        assert list(a.points) == list(b.points) == ["dense", a.journal[3]["point"]]
        for name, point in a.points.items():
            assert all(torch.equal(t, b.points[name][n]) for n, t in point.items())
        files = {p.name for p in folder.path.glob("*.safetensors")}
        assert files == {
            "checkpoint.safetensors",
            "point-dense-4.safetensors",
            f"point-{a.journal[3]['point']}-3.safetensors",
        }


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    with folder.lock():
        Run(net(), task(), folder=folder).do(Mark("a"))
        other = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(rs.CheckpointError, match="belongs to another network"):
            Run(other, task(), folder=folder).resume()
        assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


@dataclass(frozen=True)
class Bad(Score):
    """One NaN."""

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        scores = {n: w.abs().clone() for n, w in probe.weights().items()}
        scores["5.weight"][1, 2] = torch.nan
        return scores


def test_a_failed_step_is_not_in_the_journal_and_changes_nothing(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    with folder.lock():
        run = Run(net(), task(), folder=folder)
        run.do(Prune(0.1, Magnitude(), Global()))
        before, file = bits(run), (folder.path / "checkpoint.safetensors").read_bytes()
        for allocate in (Global(), Uniform(), Lamp()):
            with pytest.raises(rs.ResproutError, match=r"'5.weight' hold NaN"):
                run.do(Prune(0.5, Bad(), allocate))
        assert bits(run) == before
        assert len(run.journal) == 1
        assert (folder.path / "checkpoint.safetensors").read_bytes() == file


def test_what_drifts_is_settled_and_what_is_far_off_is_refused():
    """A file of integers changes its size while weights are trained; `Arrive` brings it back, both ways."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 200), nn.ReLU(), nn.Linear(200, 3))
    run = Run(wide, task())
    run.do(Mark("dense"))
    run.do(Prune(0.5, Magnitude(), Global()))
    size = int(rs.Bytes(1, "int8").cost(run.model, run.masks))
    for off, sign in ((-size // 50, -1), (size // 25, 1)):
        alive, budget = run.masks.alive, rs.Bytes(size + off, "int8")
        record = run.do(Arrive(budget))
        assert 0.99 * (size + off) <= record["cost"] == budget.cost(run.model, run.masks) <= size + off
        assert (run.masks.alive - alive) * sign > 0
        assert record["settled"] == run.masks.alive - alive
    with pytest.raises(rs.BudgetError, match="asked for 100B, and the network takes"):
        run.do(Arrive(rs.Bytes(100, "int8")))
