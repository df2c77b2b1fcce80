"""Killed at any moment and started again, a run ends in the very bits of an uninterrupted one.

Run as a script, this file is the process that is killed: `python test_resume.py FOLDER`.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core import select, store
from resprout.core.budget import Budget
from resprout.core.kinds import Rule
from resprout.core.run import Run
from resprout.core.steps import Arrive, Mark, Meet, Prune, Regrow, Rewind
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.fill.kaiming import Kaiming
from resprout.methods.fill.zero import Zero
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.fisher import Fisher
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.random import Random
from resprout.methods.score.saliency import Saliency


@dataclass(frozen=True)
class Wander(Rule):
    """Moves a tenth of the weights every `every` steps by a running mean of gradients, which is its state."""

    every: int = 4

    def begin(self, run: Run, steps: int) -> None:
        run.slots |= {n: torch.zeros_like(w) for n, w in run.weights().items()}

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        for name, grad in run.probe().gradients().items():
            run.slots[name] = 0.9 * run.slots[name] + grad.abs()

    def after_step(self, run: Run, step: int, steps: int) -> None:
        if step % self.every:
            return
        weights = {n: w.detach().abs() for n, w in run.weights().items()}
        move = run.masks.alive // 10
        keep = select.top(weights, run.masks.alive - move, run.masks)
        wake = select.top({n: run.slots[n] for n in weights}, move, ~run.masks)
        run.set_masks(keep | wake, Kaiming())


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(240, 1, 8, 8, generator=g)
    y = (x.mean((1, 2, 3)) * 20).long().clamp(-1, 1) + 1
    parts = [(x[i::3], y[i::3]) for i in range(3)]
    return rs.Arrays(*parts, batch_size=8, pad=1, flip=True, name="tiny")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
    )


def journey(run: Run, length: int) -> None:
    """A path that uses every verb; it decides by what it measured, so a wrong journal would lead astray."""
    lr = Linear(0.05, 0.01)
    run.do(Mark("dense"))
    run.do(Train(length, lr))
    run.do(Mark("dense"))
    run.do(Prune(0.7, Fisher(), Uniform()))
    run.do(Train(length, lr, Optimizer("adamw", decay=0.01), rule=Wander()))
    loss = run.do(Train(length, lr, rule=Wander(3), looks=3))["loss"]
    run.do(Prune(0.9 if loss > 1e-9 else 0.8, Magnitude(), Global(), floor=2))
    run.do(Regrow(0.6, Saliency(), Global(), Kaiming()))
    best = run.do(Train(length, lr, looks=6, best=True))["validation"]
    run.do(Prune(0.61 + best / 10, Random(), Uniform()))
    run.do(Rewind("dense"))
    run.do(Regrow(0.5, Saliency(), Uniform(), Zero()))
    run.do(Train(length, lr, looks=2, span=(0.5, 1.0)))
    run.do(Meet(Budget.parse("300 nonzero"), Magnitude(), Global(), Zero()))
    run.do(Arrive(Budget.parse("300 nonzero")))


def state(run: Run) -> str:
    """A digest of everything that counts: weights, buffers, masks, points, and the journal but for the seconds."""
    sha = hashlib.sha256()
    points = [(f"{p}/{n}", t) for p, point in run.points.items() for n, t in point.items()]
    for name, tensor in sorted(
        [*run.model.state_dict().items(), *run.masks.items(), *points], key=lambda pair: pair[0]
    ):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in run.journal]
    sha.update(json.dumps([records, run.trained], sort_keys=True).encode())
    return sha.hexdigest()


def travel(folder: RunFolder | None, length: int, save_every: float, pause: float = 0.0) -> tuple[str, bool, int]:
    """Walk to the end.

    Returns:
        the final state, whether it resumed, and within which step of a `Train` (0: between steps).
    """
    run = Run(
        net(), task(), folder=folder, probe_batches=2, save_every=save_every, report=lambda e, f: time.sleep(pause)
    )
    resumed = run.resume()
    at = run.partial.get("step", 0)
    journey(run, length)
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())
    return state(run), resumed, at


# -- every write of a run can be its last --------------------------------------------------------------------------


class Killed(BaseException):
    """What stands for the kill here; nobody catches it."""


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Nothing here outlives the machine, so nothing needs to reach the disk; and one thread is enough."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(store.os, "fsync", lambda file: None)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted() -> str:
    torch.set_num_threads(1)
    return travel(None, 6, 0.0)[0]


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int, after: bool) -> Callable[[], int]:
    """Make the `count`-th write of a file the last thing that happens, before or after it takes place."""
    real, seen = store.write, [0]

    def write(path: Path, data: bytes) -> None:
        seen[0] += 1
        if seen[0] == count and not after:
            raise Killed
        real(path, data)
        if seen[0] == count:
            raise Killed

    monkeypatch.setattr(store, "write", write)
    return lambda: seen[0]


def test_the_number_of_checkpoints_changes_nothing(tmp_path, uninterrupted):
    assert travel(RunFolder(tmp_path, "often", {}), 6, 0.0)[0] == uninterrupted
    assert travel(RunFolder(tmp_path, "rarely", {}), 6, 1e9)[0] == uninterrupted


def test_a_run_that_is_done_is_not_done_again(tmp_path, uninterrupted):
    folder = RunFolder(tmp_path, "run", {})
    travel(folder, 6, 1e9)
    before = (folder.path / "checkpoint.safetensors").stat().st_mtime_ns
    assert travel(folder, 6, 1e9) == (uninterrupted, True, 0)
    assert (folder.path / "checkpoint.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_many_writes_in_a_row(tmp_path, monkeypatch, uninterrupted, seed):
    """Each start gets a little further; a checkpoint after every optimizer step."""
    draw, kills, within = random.Random(seed), 0, 0
    folder = RunFolder(tmp_path, "run", {})
    while kills < 60:  # it gets to the end long before
        with monkeypatch.context() as patch:
            kill_at(patch, draw.randrange(1, 14), draw.random() < 0.5)
            try:
                got, resumed, _ = travel(folder, 6, 0.0)
            except Killed:
                kills += 1
                facts = store.load_tensors(path)[1] if (path := folder.path / "checkpoint.safetensors").exists() else {}
                within += bool(facts.get("partial"))
                continue
        assert resumed
        assert got == uninterrupted
        break
    assert 4 <= kills < 60
    assert within >= 1  # at least one resumed in the middle of a `Train`


@dataclass(frozen=True)
class Other(Rule):
    """Another rule."""


def test_a_recipe_that_changed_within_a_step_is_noticed(tmp_path, monkeypatch):
    folder, lr = RunFolder(tmp_path, "run", {}), Linear(0.05, 0.01)
    with monkeypatch.context() as patch:
        kill_at(patch, 5, after=True)
        with pytest.raises(Killed):
            Run(net(), task(), folder=folder, save_every=0.0).do(Train(9, lr))
    for step in (Train(8, lr), Train(9, lr, rule=Other()), Prune(0.5, Magnitude(), Global())):
        run = Run(net(), task(), folder=folder)
        assert run.resume()
        with pytest.raises(rs.CheckpointError, match=r"the kept run was within Train\(steps=9.*recipe has changed"):
            run.do(step)
    run = Run(net(), task(), folder=folder)
    assert run.resume()
    assert 0 < run.trained < 9
    assert run.do(Train(9, lr))["trained"] == 9


def test_a_damaged_checkpoint_is_refused(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    Run(net(), task(), folder=folder).do(Mark("dense"))
    for name in ("checkpoint.safetensors", "point-dense-0.safetensors"):
        data = (folder.path / name).read_bytes()
        (folder.path / name).write_bytes(data[:-8] + bytes(8))
        with pytest.raises(rs.CheckpointError, match=rf"{name} is damaged"):
            Run(net(), task(), folder=folder).resume()
        (folder.path / name).write_bytes(data)
    (folder.path / "point-dense-0.safetensors").unlink()
    with pytest.raises(rs.CheckpointError, match="cannot be read"):
        Run(net(), task(), folder=folder).resume()


# -- a real process and a real kill --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_minus_nine_at_random_moments(tmp_path):
    """`main` below, in a process of its own, starts and kills children; here we look at what it saw."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert len(seen["kills"]) >= 4
    assert len(set(seen["progress"])) >= 3  # checkpoints at different places, and never a step back
    assert seen["progress"] == sorted(seen["progress"])
    assert seen["within"] >= 1
    assert seen["resumed"]
    assert seen["end"] == seen["uninterrupted"]
    folder = next(tmp_path.glob("killed-*"))
    assert len((folder / "trace.jsonl").read_text().splitlines()) == 15
    assert not list(folder.glob(".*.part"))


LENGTH, PAUSE = 24, 0.008


def child(folder: RunFolder, answer: Path, save_every: float) -> int:
    """Fork a process that travels in `folder` and writes `answer` when it arrives; torch is loaded already."""
    pid = os.fork()
    if pid == 0:
        try:
            with folder.lock():
                answer.write_text(json.dumps(travel(folder, LENGTH, save_every, PAUSE)))
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # ty: ignore
            os._exit(1)
    return pid


def main(root: Path) -> None:
    """Travel once without interruption; then again, killed five times at random moments; print what happened."""
    torch.set_num_threads(1)
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    for kind in (torch.optim.SGD, torch.optim.AdamW):  # what torch imports late is imported before the fork
        kind([weight], 0.1).step()
    draw, answer = random.Random(7), root / "answer"
    began = time.monotonic()
    _, status = os.waitpid(child(RunFolder(root, "whole", {}), answer, 30.0), 0)
    whole = time.monotonic() - began
    assert status == 0
    uninterrupted = json.loads(answer.read_text())[0]
    answer.unlink()
    folder, kills, progress, within = RunFolder(root, "killed", {}), [], [], 0
    while len(kills) < 5:
        pid, wait = child(folder, answer, 0.02), whole * draw.uniform(0.1, 0.35)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if answer.exists():
            break
        assert status == signal.SIGKILL, status  # neither an error nor an early end
        kills.append(wait)
        if (path := folder.path / "checkpoint.safetensors").exists():
            facts = store.load_tensors(path)[1]
            progress.append(facts["trained"])
            within += bool(facts["partial"])
    if not answer.exists():
        _, status = os.waitpid(child(folder, answer, 0.02), 0)
        assert status == 0
    end, resumed, _ = json.loads(answer.read_text())
    facts = {"kills": kills, "progress": progress, "within": within, "resumed": resumed}
    print(json.dumps(facts | {"end": end, "uninterrupted": uninterrupted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
