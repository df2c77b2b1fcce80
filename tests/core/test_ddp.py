"""Two processes: the same masks on every rank, and a rank that goes its own way is caught.

Run by torchrun, this file is one rank: `torchrun --nproc-per-node 2 test_ddp.py FOLDER`.
"""

import gc
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import resprout as rs
from resprout.core.kinds import Rule, Score
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune, Regrow
from resprout.core.store import RunFolder
from resprout.core.train import Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.fill.kaiming import Kaiming
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.fisher import Fisher
from resprout.methods.score.random import Random
from resprout.methods.score.saliency import Saliency
from resprout.methods.score.taylor import Taylor


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(144, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) * 20).long().clamp(-1, 1) + 1
    parts = [(x[i::3], y[i::3]) for i in range(3)]
    return rs.Arrays(*parts, batch_size=8, name="tiny")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3)
    )


def mlp() -> nn.Module:
    """No norm and no dropout, so that two ranks compute what one process does."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 3))


def digest(tensors: Any) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class Local(Score):
    """What no score may do: numbers that depend on the rank."""

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(dist.get_rank())
        return {n: torch.rand(w.shape, generator=g) for n, w in probe.weights().items()}


@dataclass(frozen=True)
class Move(Rule):
    """Every other step the smallest tenth dies, and as many wake where the gradient is largest."""

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        if step % 2:
            return
        from resprout.core import select

        weights = {n: w.detach().abs() for n, w in run.weights().items()}
        move = run.masks.alive // 10
        keep = select.top(weights, run.masks.alive - move, run.masks)
        grads = {n: g.abs() for n, g in run.probe().gradients().items()}
        run.set_masks(keep | select.top(grads, move, ~run.masks))


def held() -> dict[str, Any]:
    """The loop of a stranger: DDP, each rank its own data, momentum and decay."""
    model = net()
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    x, y = (
        torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(dist.get_rank())),
        torch.tensor([0, 1, 2] * 2),
    )

    def step() -> None:
        nn.functional.cross_entropy(ddp(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the momentum is dense
    masks = rs.prune(ddp, 0.7, allocate="uniform")
    rs.hold(ddp, masks, optimizer)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(4):
        step()
    after = dict(model.named_parameters())
    return {
        "data": digest([x]),
        "masks": masks.digest(),
        "weights": digest(model.parameters()),
        "obeys": all(not after[n].detach()[~m].any() for n, m in masks.items()),
        "moved": sum(int((before[n] != after[n])[m].sum()) for n, m in masks.items()) / masks.alive,
        "keys": list(ddp.state_dict()),
    }


def walked(folder: Path) -> dict[str, Any]:
    """A run with sharded data, norms, dropout and a rule; then the same run resumed."""
    lr = Linear(0.05, 0.01)
    steps = [
        Mark("dense"),
        Prune(0.6, Fisher(), Uniform()),
        Train(7, lr, rule=Move(), looks=3),
        Regrow(0.3, Saliency(), Global(), Kaiming()),
        Train(6, lr, looks=6, best=True),
        Prune(0.5, Random(), Uniform()),
        Train(3, lr),
    ]
    run = Run(net(), task(), folder=RunFolder(folder, "run", {}), probe_batches=3)
    masks = []
    for step in steps:
        run.do(step)
        masks.append(run.masks.digest())
    dist.barrier()
    again = Run(net(), task(), folder=run.folder, probe_batches=3)
    resumed = again.resume()
    for step in steps:
        again.do(step)
    weights = dict(run.model.named_parameters())
    return {
        "masks": masks,
        "weights": digest(run.model.state_dict().values()),
        "obeys": all(not weights[n].detach()[~m].any() for n, m in run.masks.items()),
        "looks": [record.get("curve") for record in run.journal],
        "alive": [record["alive"] for record in run.journal],
        "again": [resumed, again.masks.digest(), digest(again.model.state_dict().values())],
    }


def alike() -> dict[str, Any]:
    """What one process with the whole batches must get too."""
    run = Run(mlp(), task(), probe_batches=2)
    run.do(Train(5, Linear(0.1, 0.05)))
    run.do(Prune(0.8, Taylor(), Global()))
    return {"masks": run.masks.digest(), "weights": [float(p.detach().double().sum()) for p in run.model.parameters()]}


def caught() -> dict[str, Any]:
    """A score that differs between ranks."""
    run = Run(net(), task())
    before, masks = digest(run.model.state_dict().values()), run.masks
    try:
        run.do(Prune(0.5, Local(), Global()))
    except rs.ResproutError as error:
        untouched = digest(run.model.state_dict().values()) == before and run.masks is masks
        return {"error": str(error), "untouched": untouched}
    return {"error": None}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {"held": held(), "walked": walked(folder), "alike": alike(), "caught": caught()}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    gc.collect()  # no DDP object outlives the process group
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, folder]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_a_held_model_trains_in_ddp(ranks):
    a, b = (r["held"] for r in ranks)
    assert a["data"] != b["data"]
    assert a["masks"] == b["masks"]
    assert a["weights"] == b["weights"]
    for r in (a, b):
        assert r["obeys"]
        assert r["moved"] > 0.9
        assert r["keys"] == [f"module.{key}" for key in net().state_dict()]


def test_masks_weights_and_buffers_are_the_same_on_every_rank(ranks):
    a, b = (r["walked"] for r in ranks)
    assert a["masks"] == b["masks"]
    assert a["weights"] == b["weights"]
    assert a["looks"] == b["looks"]
    assert a["obeys"]
    assert b["obeys"]
    assert len(set(a["masks"])) == 5  # prune, rule, regrow, prune; a `Train` without a rule moves none
    assert a["alive"] == [228 - round(s * 228) for s in (0, 0.6, 0.6, 0.3, 0.3, 0.5, 0.5)]


def test_every_rank_resumes(ranks):
    for r in (rank["walked"] for rank in ranks):
        assert r["again"] == [True, r["masks"][-1], r["weights"]]


def test_two_ranks_choose_what_one_process_does(ranks):
    one = alike()
    for r in (rank["alike"] for rank in ranks):
        assert r["masks"] == one["masks"]
        assert r["weights"] == pytest.approx(one["weights"], abs=1e-5)


def test_a_rank_that_computes_other_scores_is_caught(ranks):
    for i, r in enumerate(rank["caught"] for rank in ranks):
        assert f"rank {i}: ranks [1] chose other masks than rank 0" in r["error"]
        assert r["untouched"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
