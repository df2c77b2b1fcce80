"""A part of a network is trained, and adapters become part of it; what is not trained does not move by a bit.

Run by torchrun, this file is one rank: `torchrun --nproc-per-node 2 test_tuned.py FOLDER`.
"""

import gc
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

import resprout as rs
from resprout.core import store
from resprout.core.kinds import Objective, Rule, Tune
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.core.tuned import Tuned
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.objective.logit_kd import LogitKd
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.tune.biases_norms import BiasesNorms
from resprout.methods.tune.mask_lora import MaskLora
from resprout.methods.tune.scale_lora import ScaleLora
from resprout.tasks.text import Text

ADAMW = Optimizer("adamw", decay=0.1)
TUNES = [
    BiasesNorms(),
    MaskLora(3),
    MaskLora(3, masked=False),
    ScaleLora(3),
    MaskLora(2, layers="a_last", biases_norms=False),
]


@dataclass(frozen=True)
class Both(Tune):
    """The hardest case: weights under a mask that are trained themselves, with something beside them too."""

    fidelity = "smoke-tested"

    def own(self, model: nn.Module) -> Collection[str]:
        return ["z_first.weight", "norm.bias"]

    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        if name == "middle.weight":
            return {}
        made = torch.randn(weight.shape, generator=generator) / 50
        return {"plus": made, "a": torch.ones(1)} if name == "a_last.weight" else {"plus": made}

    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        return weight * beside.get("a", 1.0) + beside["plus"]


def net() -> nn.Module:
    """Its names do not come in the alphabet's order, nor does it lack a norm, dropout or a bias that is frozen."""
    torch.manual_seed(0)
    parts = {
        "z_first": nn.Conv2d(1, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "act": nn.ReLU(),
        "flat": nn.Flatten(),
        "middle": nn.Linear(64, 10),
        "drop": nn.Dropout(0.2),
        "a_last": nn.Linear(10, 3),
    }
    model = nn.Sequential()
    for name, module in parts.items():
        model.add_module(name, module)
    return model


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(144, 1, 6, 6, generator=g)
    y = (x.mean((1, 2, 3)) * 20).long().clamp(-1, 1) + 1
    return rs.Arrays(*[(x[i::3], y[i::3]) for i in range(3)], batch_size=8, name="tiny")


def cut(folder: RunFolder | None = None, model: nn.Module | None = None) -> Run:
    run = Run(model or net(), task(), folder=folder, save_every=0.0)
    run.resume()
    run.do(Mark("dense"))
    run.do(Prune(0.6, Magnitude(), Uniform()))
    return run


def values(run: Run) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in run.model.state_dict().items()}


def obeys(run: Run) -> bool:
    return all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


# -- what is trained, and what is not ------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [*TUNES, Both()], ids=repr)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("best", [False, True])
def test_the_rest_does_not_move_and_the_dead_stay_dead(tune, kind, best):
    run = cut()
    before, touched = values(run), set(tune.own(run.model))
    touched |= {n for n, w in run.weights().items() if tune.beside(n, w.detach(), run.generator())}
    facts = run.do(Train(5, Constant(0.05), Optimizer(kind, decay=0.1), looks=3, best=best, tune=tune))
    after = values(run)
    params = dict(run.model.named_parameters())
    for name in params:
        if name != "z_first.bias" or name not in touched:  # a norm takes it out again
            assert torch.equal(after[name], before[name]) == (name not in touched), name
    assert not torch.equal(after["norm.running_mean"], before["norm.running_mean"])  # norms see the data
    assert obeys(run)
    assert facts["alive"] == run.masks.alive
    assert run.evaluate() == pytest.approx(facts["validation"], abs=1e-6)
    assert all(p.requires_grad for p in params.values())
    assert hooks(run.model) == 0
    assert run.slots == {}
    own = sum(params[n].numel() for n in tune.own(run.model))
    beside = [t for n, w in run.weights().items() for t in tune.beside(n, w.detach(), run.generator()).values()]
    assert facts["tuned"] == own + sum(t.numel() for t in beside)


@pytest.mark.parametrize("tune", [*TUNES[1:], Both()], ids=repr)
def test_looks_change_nothing(tune):
    ends = []
    for looks in (1, 5):
        run = cut()
        run.do(Train(5, Constant(0.05), ADAMW, looks=looks, tune=tune))
        ends.append(values(run))
    assert all(torch.equal(t, ends[1][n]) for n, t in ends[0].items())


def test_what_the_user_froze_is_frozen_afterwards():
    run = cut()
    run.model.get_parameter("norm.bias").requires_grad_(False)
    run.model.get_parameter("middle.weight").requires_grad_(False)
    flags = {n: p.requires_grad for n, p in run.model.named_parameters()}
    before = values(run)
    run.do(Train(3, Constant(0.05), tune=MaskLora(2)))
    assert {n: p.requires_grad for n, p in run.model.named_parameters()} == flags
    assert not torch.equal(before["norm.bias"], values(run)["norm.bias"])  # a tune says what is trained


@pytest.mark.parametrize("tune", TUNES[1:], ids=repr)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_merged_it_computes_the_same(tune, precision):
    run = cut()
    run.precision = precision
    part = Tuned(run, tune)
    run.model.eval()
    x = torch.randn(5, 1, 6, 6)
    with torch.no_grad():
        plain = run.model(x)
        assert torch.equal(part(x), plain)  # before it has learned anything
        for p in part.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) / 10)
        with run.autocast():
            made = {n: t.clone() for n, t in part.effective().items()}
            apart = part(x)
        base = values(run)
        with part.merged(), run.autocast():
            assert torch.equal(run.model(x), apart)
        assert all(torch.equal(t, base[n]) for n, t in values(run).items())
        part.finish(done=True)
        params = dict(run.model.named_parameters())
        assert all(torch.equal(params[n], t * run.masks[n]) for n, t in made.items())
        if getattr(tune, "masked", True):
            with run.autocast():
                assert torch.equal(run.model(x), apart)
    assert obeys(run)


def test_weights_of_half_precision_stay_so():
    part = Tuned(Run(net().bfloat16(), task()), MaskLora(2))
    assert {t.dtype for t in part.effective().values()} == {torch.bfloat16}
    assert part(torch.randn(4, 1, 6, 6).bfloat16()).dtype == torch.bfloat16


# -- what goes wrong -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Objective):
    """Goes well until it does not."""

    error: type[BaseException]
    fidelity = "smoke-tested"

    def __call__(self, run: Run, model: nn.Module, batch: object) -> Tensor:
        if run.trained == 2:
            raise self.error("enough")
        return run.task.loss(model, batch)


@dataclass(frozen=True)
class Stumbling(Tune):
    """Fails at its last weight."""

    fidelity = "smoke-tested"

    def own(self, model: nn.Module) -> Collection[str]:
        return ["norm.bias"]

    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        if name == "a_last.weight":
            raise ValueError(name)
        return {"plus": torch.zeros_like(weight)}

    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        return weight


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Train(5, Constant(0.05), objective=Broken(KeyboardInterrupt), tune=MaskLora(2)), KeyboardInterrupt),
        (Train(5, Constant(0.05), objective=Broken(rs.ResproutError), tune=ScaleLora(2)), rs.ResproutError),
        (Train(5, Constant(0.05), Optimizer("adam"), tune=MaskLora(2)), rs.ResproutError),
        (Train(5, Constant(0.05), tune=Stumbling()), ValueError),
        (Train(5, Constant(float("nan")), tune=MaskLora(2)), rs.ResproutError),
    ],
    ids=["interrupt", "loss", "optimizer", "tune", "nan"],
)
def test_after_an_error_all_is_as_it_was(step, error):
    run = cut()
    run.model.get_parameter("middle.bias").requires_grad_(False)
    flags = {n: p.requires_grad for n, p in run.model.named_parameters()}
    before = values(run)
    with pytest.raises(error):
        run.do(step)
    assert {n: p.requires_grad for n, p in run.model.named_parameters()} == flags
    assert run.slots == {}
    assert run.optimizer is None
    assert hooks(run.model) == 0
    assert all(torch.equal(w, before[n]) for n, w in run.weights().items())  # nothing half-trained was merged
    if error is not rs.ResproutError:
        run.do(Train(3, Constant(0.05), tune=MaskLora(2)))
    assert obeys(run)


def test_names_and_rules_that_cannot_be():
    run = cut()
    with pytest.raises(rs.ResproutError, match="leaves nothing to train in Sequential"):
        run.do(Train(2, Constant(0.1), tune=BiasesNorms(biases=False, norms=False)))
    with pytest.raises(rs.ResproutError, match=r"would train 'norm.bias', which the network does not have"):
        Run(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), task()).do(Train(2, Constant(0.1), tune=Both()))
    with pytest.raises(rs.ResproutError, match="must stand still"):
        run.do(Train(2, Constant(0.1), rule=Moving(), tune=MaskLora(2)))
    assert all(p.requires_grad for p in run.model.parameters())


@dataclass(frozen=True)
class Moving(Rule):
    """A rule."""


# -- tied weights --------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Embedding and head are one tensor, and each has a name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner = nn.Embedding(7, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(self.embed(ids)).tanh())


@pytest.mark.parametrize("tune", [MaskLora(2), MaskLora(2, masked=False), ScaleLora(2)], ids=repr)
def test_tied_weights_are_tuned_as_one(tune):
    model = Tied()
    ids = torch.randint(7, (90,), generator=torch.Generator().manual_seed(0))
    run = Run(model, Text(ids, ids, ids, window=8, batch_size=2), rs.Masks.dense(model, ["embed*", "inner*"]))
    run.do(Mark("dense"))
    run.do(Prune(0.5, Magnitude(), Uniform()))
    run.do(Train(4, Constant(0.05), ADAMW, looks=2, best=True, objective=LogitKd(), tune=tune))
    assert model.head.weight is model.embed.weight
    assert obeys(run)
    part = Tuned(run, tune)
    with torch.no_grad():
        for p in part.parameters():
            if p.requires_grad:
                p.add_(0.1)
        apart = part(ids)
        part.finish(done=True)
        if getattr(tune, "masked", True):
            assert torch.equal(model(ids), apart)
    assert model.head.weight is model.embed.weight


# -- killed and resumed --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stands for the kill."""


def journey(run: Run) -> Run:
    lr = Linear(0.05, 0.01)
    run.do(Train(5, lr, ADAMW, tune=MaskLora(3)))
    run.do(Train(5, lr, ADAMW, looks=2, objective=LogitKd(2.0, 0.3), tune=Both()))
    loss = run.do(Train(4, lr, tune=BiasesNorms()))["loss"]
    run.do(Train(6, lr, ADAMW, looks=6, best=True, objective=LogitKd(), tune=MaskLora(3, masked=False)))
    run.do(Train(4 if loss > 1e-9 else 3, lr, tune=ScaleLora(2, layers="middle|a_last")))
    run.do(Mark("end"))
    return run


def state(run: Run) -> str:
    sha = hashlib.sha256()
    points = [(f"{p}/{n}", t) for p, point in run.points.items() for n, t in point.items()]
    for name, tensor in sorted([*values(run).items(), *run.masks.items(), *points], key=lambda pair: pair[0]):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in run.journal]
    sha.update(json.dumps([records, run.trained], sort_keys=True).encode())
    return sha.hexdigest()


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_resumed_it_ends_in_the_same_bits(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(store.os, "fsync", lambda file: None)
    whole = state(journey(cut()))
    draw, kills, within, real = random.Random(seed), 0, 0, store.write
    folder = RunFolder(tmp_path, "run", {})
    while kills < 60:
        left, after = draw.randrange(1, 12), draw.random() < 0.5

        def write(path: Path, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left == 0 and not after:  # noqa: B023
                raise Killed
            real(path, data)
            if left == 0:
                raise Killed

        monkeypatch.setattr(store, "write", write)
        try:
            assert state(journey(cut(folder))) == whole
            break
        except Killed:
            kills += 1
            facts = store.load_tensors(path)[1] if (path := folder.path / "checkpoint.safetensors").exists() else {}
            within += bool(facts.get("partial"))
    assert 4 <= kills < 60
    assert within >= 2


# -- two processes -------------------------------------------------------------------------------------------------


def trained() -> list[float]:
    """No norm and no dropout, so that two ranks compute what one process does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 3))
    run = cut(model=model)
    run.do(Train(6, Constant(0.02), ADAMW, looks=2, objective=LogitKd(2.0, 0.5), tune=MaskLora(3)))
    assert obeys(run)
    return [float(p.detach().double().square().sum()) for p in model.parameters()]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(trained()))
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_tune_what_one_process_does(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
        tmp_path,
    ]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-4000:]
    a, b = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert a == b
    assert a == pytest.approx(trained(), rel=1e-4)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
