"""What people get wrong is a clear error: it names the argument and the remedy, and nothing is half-done."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout import catalog
from resprout.core.kinds import Score
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.store import RunFolder
from resprout.core.train import Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.schedule.constant import Constant
from resprout.methods.score.magnitude import Magnitude


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def pair(n: int = 12) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, 6, generator=g), torch.arange(n) % 3


def task(**changes) -> rs.Arrays:
    return rs.Arrays(**{"train": pair(24), "validation": pair(), "test": pair(), "batch_size": 8} | changes)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def refused(model: nn.Module, match: str, call) -> None:
    """`call` raises an error that matches, and the model keeps its bits."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(rs.ResproutError, match=match):
        call()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(t, after[n]) or torch.isnan(t).any() for n, t in before.items())
    assert not model._forward_pre_hooks


SPARSITIES = [
    (98, r"sparsity is a fraction in \[0, 1\], got 98; did you mean 0.98\?"),
    (2, r"got 2; did you mean 0.98 \(keep 2 %\) or 0.02\?"),
    (1.5, "got 1.5; did you mean"),
    (-0.1, r"in \[0, 1\], got -0.1$"),
    (math.nan, r"in \[0, 1\], got nan$"),
    (math.inf, r"in \[0, 1\], got inf$"),
    ("0.98", "sparsity must be a number"),
    (True, "sparsity must be a number"),
    (None, "sparsity must be a number"),
]


@pytest.mark.parametrize(("sparsity", "match"), SPARSITIES)
def test_sparsity_out_of_range(sparsity, match):
    model = net()
    refused(model, match, lambda: rs.prune(model, sparsity))
    refused(model, match, lambda: rs.regrow(model, Masks.dense(model), sparsity, score="random"))
    run = Run(model, task())
    refused(model, match, lambda: run.do(Prune(sparsity, Magnitude(), Global())))
    assert run.journal == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"score": "magnitud"}, "unknown score 'magnitud'; did you mean 'magnitude'"),
        ({"allocate": "unifrom"}, "unknown allocate 'unifrom'; did you mean 'uniform'"),
        ({"score": "zzzz"}, "unknown score 'zzzz'; known: activation_mean, apoz"),
        ({"score": "lamp"}, "unknown score 'lamp'"),
        ({"granularity": "filter"}, "unknown granularity 'filter'"),
        ({"granularity": "channel"}, "needs example="),
        ({"granularity": "4:2"}, "unknown granularity '4:2'"),
        ({"allocate": "table"}, r"'table' needs arguments: pass Table\(...\)"),
        ({"ignore": ["3"]}, "unknown parameter"),
        ({"ignore": "0"}, r"write \['name'\]"),
        ({"ignore": ["0", "2"]}, "nothing to prune"),
        ({"floor": 50}, "cannot be spread"),
        ({"score": "fisher"}, r"pass data=\[batch, ...\] and loss="),
        ({"score": "saliency", "data": [pair()], "loss": loss}, "pass anchor=dense_model"),
        ({"score": "fisher", "data": [], "loss": loss}, "data= is empty"),
    ],
)
def test_arguments_of_prune(arguments, match):
    model = net()
    refused(model, match, lambda: rs.prune(model, 0.5, **arguments))


def test_unknown_fill_and_method():
    model = net()
    masks = rs.prune(model, 0.5)
    refused(
        model,
        "unknown fill 'kaming'; did you mean 'kaiming'",
        lambda: rs.regrow(model, masks, 0.2, score="random", fill="kaming"),
    )
    with pytest.raises(rs.ResproutError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        catalog.find("schedule", "cosin")


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential()])
def test_a_model_with_nothing_to_prune(model):
    refused(
        model, "nothing to prune in (ReLU|Sequential): .* name parameters with targets=", lambda: rs.prune(model, 0.5)
    )
    with pytest.raises(rs.ResproutError, match="nothing to prune"):
        Run(model, task())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("allocate", ["global", "uniform", "erk", "lamp"])
@pytest.mark.parametrize("granularity", ["weight", "1:2"])
def test_weights_that_are_not_finite(value, allocate, granularity):
    model = net()
    with torch.no_grad():
        model[2].weight[1, 3] = value
    refused(
        model,
        "'2.weight' hold NaN or infinity",
        lambda: rs.prune(model, 0.5, allocate=allocate, granularity=granularity),
    )
    with pytest.raises(rs.ResproutError, match=r"weights of '2.weight' hold NaN or infinity; load a sound checkpoint"):
        Run(model, task())


class Broken(Score):
    """One score of one dead or living weight is not finite."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        scores = {n: torch.rand_like(w) for n, w in probe.weights().items()}
        scores["0.weight"][probe.masks["0.weight"].logical_not() if probe.masks.sparsity else 0] = self.value
        return scores


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("allocate", ["global", "uniform", "lamp"])
def test_scores_that_are_not_finite(value, allocate):
    model = net()
    refused(
        model,
        "scores of '0.weight' hold NaN or infinity",
        lambda: rs.prune(model, 0.5, score=Broken(value), allocate=allocate),
    )
    masks = rs.prune(model, 0.8, allocate="uniform")
    if allocate != "lamp":  # LAMP prunes only
        refused(
            model,
            "scores of '0.weight' hold NaN or infinity",
            lambda: rs.regrow(model, masks, 0.5, score=Broken(value), allocate=allocate),
        )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_that_are_empty_or_do_not_match(split):
    x, y = pair()
    with pytest.raises(rs.ResproutError, match=f"the {split} split of task 'arrays' is empty"):
        task(**{split: (x[:0], y[:0])})
    with pytest.raises(rs.ResproutError, match=f"the {split} split of task 'arrays' has 12 inputs and 11 labels"):
        task(**{split: (x, y[:-1])})
    with pytest.raises(rs.ResproutError, match=f"the {split} split of task 'arrays' holds NaN"):
        task(**{split: (x * math.nan, y)})


@pytest.mark.parametrize(
    ("train", "match"),
    [
        (
            (torch.randn(24, 7), torch.arange(24) % 3),
            r"cannot take this batch \(tuple\(float32\[8, 7\], int64\[8\]\)\)",
        ),
        ((torch.randn(24, 6), torch.arange(24)), "cannot take this batch"),
    ],
)
def test_a_batch_that_the_loss_cannot_take(train, match):
    model = net()
    with pytest.raises(rs.ResproutError, match=match):
        Run(net(), task(train=train)).do(Train(2, Constant(0.1)))
    refused(
        model, match, lambda: Run(model, task(train=train)).do(Prune(0.5, catalog.make("score", "fisher"), Global()))
    )
    refused(model, match, lambda: rs.prune(model, 0.5, score="taylor", data=[(train[0][:8], train[1][-8:])], loss=loss))


def test_training_that_diverges_is_an_error_and_keeps_the_last_checkpoint(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    run = Run(net(), task(), folder=folder)
    run.do(Mark("start"))
    file = (folder.path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(rs.ResproutError, match=r"the training loss at step \d+ is .*; lower the learning rate"):
        run.do(Train(50, Constant(1e30)))
    assert (folder.path / "checkpoint.safetensors").read_bytes() == file
    assert len(run.journal) == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "text", "absent"])
def test_files_that_are_damaged_or_foreign(tmp_path, damage):
    path, model = tmp_path / "net", net(1)
    rs.save(path, net())
    data = path.read_bytes()
    if damage == "absent":
        path.unlink()
    elif damage == "foreign":
        rs.save(path, nn.Linear(3, 3))
    else:
        path.write_bytes({"cut": data[:-9], "flip": data[:-9] + b"\x7f" + data[-8:], "text": b"text"}[damage])
    refused(model, "net (cannot be read|is damaged|belongs to another model)", lambda: rs.load(path, into=model))


def test_saving_what_cannot_be_saved(tmp_path):
    model = net()
    other = rs.Masks.dense(nn.Sequential(nn.Linear(6, 9)))
    for arguments, match in [
        ({"values": "fp8"}, "unknown values 'fp8'; did you mean"),
        ({"masks": rs.Masks({})}, "the masks name no weight"),
        ({"masks": other}, r"the masks name '0.weight' of shape \(9, 6\), which Sequential does not have"),
        ({"masks": rs.Masks({"x": torch.ones(2) > 0})}, "the masks name 'x'"),
    ]:
        refused(model, match, lambda a=arguments: rs.save(tmp_path / "net", model, **a))
    assert list(tmp_path.iterdir()) == []


OWNER = """
import sys
from resprout.core.store import RunFolder
with RunFolder(sys.argv[1], "run", {}).lock():
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_run_folder_in_use(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        folder = RunFolder(tmp_path, "run", {})
        before = sorted(p.name for p in folder.path.iterdir())
        with (
            pytest.raises(rs.CheckpointError, match="in use by another process; wait for it, or change"),
            folder.lock(),
        ):
            pass
        assert sorted(p.name for p in folder.path.iterdir()) == before
    finally:
        owner.kill()
        owner.communicate()


@pytest.mark.filterwarnings("error")
def test_a_layer_that_would_die_is_a_warning_and_a_floor_prevents_it():
    model = net()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    with pytest.warns(rs.LayerDied, match=r"no weight is left in 2.weight: .*floor=1"):
        masks = rs.prune(copy.deepcopy(model), 0.7)
    assert masks.counts["2.weight"] == 0
    assert masks.alive == 72 - round(0.7 * 72)
    safe = rs.prune(model, 0.7, floor=1)
    assert safe.counts["2.weight"] == 1
    assert safe.alive == masks.alive


def test_a_failing_step_leaves_no_file_behind(tmp_path, monkeypatch):
    import errno
    import os

    from resprout.core import store

    folder = RunFolder(tmp_path, "run", {})
    run = Run(net(), task(), folder=folder)
    run.do(Mark("start"))
    before = {p.name: p.read_bytes() for p in folder.path.iterdir()}

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(rs.ResproutError, match="the disk is full"):
        run.do(Prune(0.5, Magnitude(), Global()))
    assert {p.name: p.read_bytes() for p in folder.path.iterdir()} == before
    monkeypatch.undo()
    again = Run(net(5), task(), folder=folder)
    assert again.resume()
    assert again.do(Mark("start"))["step"] == "Mark"
    assert again.do(Prune(0.5, Magnitude(), Global()))["alive"] == 36
    lines = [json.loads(line) for line in Path(folder.path / "trace.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == ["Mark", "Prune"]
