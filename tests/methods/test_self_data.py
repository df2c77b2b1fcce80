"""The dense network writes the text that its pruned copy is trained on."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_lm import ADAMW, LETTERS, Tiny, cut, dense, language, text, trained
from torch import Tensor

import resprout as rs
from resprout.core import store
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.store import RunFolder
from resprout.core.train import Train
from resprout.methods.recover._slerp import slerp
from resprout.methods.recover.finetune import Finetune
from resprout.methods.recover.self_data_distill import OnOwnText, SelfDataDistill, continued
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.linear import Linear
from resprout.methods.tune.mask_lora import MaskLora
from resprout.numerics.distance import kl


@pytest.fixture(name="trained")
def trained_fixture() -> dict[str, Tensor]:
    return trained()


def test_slerp():
    g = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(12, generator=g), dim=0).view(3, 4) for _ in range(2))
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    for t in (0.2, 0.5, 0.9):
        assert float(slerp(a, b, t).norm()) == pytest.approx(1, rel=1e-6)
        assert torch.equal(slerp(a, a, t), a)
        assert torch.allclose(slerp(a, 3 * a, t), a * (1 + 2 * t))
    assert torch.allclose(slerp(torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), 1 / 3), torch.tensor([3**0.5 / 2, 0.5]))
    assert torch.equal(slerp(torch.zeros(2), torch.ones(2), 0.5), torch.full((2,), 0.5))
    assert not slerp(torch.tensor([1.0, 0, 2]), torch.tensor([3.0, 0, 0.5]), 0.5)[1]


def test_the_dense_network_goes_on_as_it_would(trained):
    model = Tiny()
    model.load_state_dict(trained)
    begun = language(0, 8, 5)[None].repeat(400, 1)
    made = continued(model, begun, 10, 1.0, 3)
    assert torch.equal(made[:, :8], begun)
    assert torch.equal(made, continued(model, begun, 10, 1.0, 3))
    assert not torch.equal(made, continued(model, begun, 10, 1.0, 4))
    chances = model(begun[:1])[0, -1].softmax(-1)
    seen = torch.bincount(made[:, 8], minlength=LETTERS) / 400
    assert float((chances - seen).abs().max()) < 0.1
    assert len(set(continued(model, begun, 10, 1e-4, 3)[:, 8].tolist())) == 1


def test_own_text_brings_back_more_of_the_dense_network_than_foreign_text(trained):
    """A layer is gone, and what there is to train on is of another style; the dense network's own words keep it as it was."""
    foreign = text(1)
    ends = {}
    train = Finetune(Linear(5e-3, 0.0, 0.1), ADAMW)
    for name, recover in (("foreign", train), ("own", SelfDataDistill(train, rows=96, prompt=0.1))):
        run = dense(trained, foreign)
        gone = {n: m & ("blocks.1." not in n) for n, m in run.masks.items()}
        run.set_masks(rs.Masks(gone))
        for step in recover(60):
            run.do(step)
        held = foreign.test[:320].view(10, 32)
        twin = Tiny()
        twin.load_state_dict(trained)
        ends[name] = float(kl(twin(held), run.model(held)).detach())
    assert ends["own"] < 0.5 * ends["foreign"]


def test_own_text_is_kept_and_written_the_same(trained, tmp_path):
    step = OnOwnText(Train(2, Constant(1e-3), ADAMW), 20, 0.5, 1.0)
    loose = dense(trained)
    first = step.text(loose)
    assert first.shape == (20 * 32,)
    prompts = next(iter(loose.task.batches("train", seed=0)))
    assert prompts.shape == (8, 32)
    kept = dense(trained, folder=RunFolder(tmp_path, "run", {}))
    task = kept.task
    assert torch.equal(step.text(kept), first)
    assert torch.equal(step.text(kept), first)
    assert [p.name for p in kept.folder.path.glob("self-data*")] == ["self-data-0.safetensors"]  # pyright: ignore
    assert not torch.equal(dataclasses.replace(step, which=1).text(loose), first)
    kept.do(step)
    loose.do(step)
    assert kept.task is task
    assert all(torch.equal(a, b) for a, b in zip(kept.model.parameters(), loose.model.parameters(), strict=True))


def test_own_text_is_trained_on_to_the_same_bits_after_a_kill(trained, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    (step,) = SelfDataDistill(Finetune(Constant(1e-3), ADAMW, tune=MaskLora(2)), rows=20)(6)
    whole = dense(trained)
    whole.do(step)
    folder, real = RunFolder(tmp_path, "run", {}), store.write
    run = dense(trained, folder=folder)
    run.save_every = 0.0
    left = 4

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        left -= 1
        real(path, data)
        if left == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", write)
        with pytest.raises(Killed):
            run.do(step)
    again = Run(Tiny(), text(), folder=folder)
    assert again.resume()
    assert 0 < again.partial["step"] < 6
    again.do(Mark("dense"))
    again.do(step)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_two_sets_are_merged_half_way(trained):
    run = cut(trained)
    for step in SelfDataDistill(Finetune(Constant(1e-3), ADAMW), rows=16, sets=2)(7):
        run.do(step)
    assert [r["step"] for r in run.journal] == [
        "Mark",
        "Prune",
        "Mark",
        "OnOwnText",
        "Mark",
        "Rewind",
        "OnOwnText",
        "Merge",
    ]
    assert run.trained == 7
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())
    with pytest.raises(rs.ResproutError, match="sets is 1 or 2"):
        SelfDataDistill(sets=3)


def test_text_there_must_be(tiny, batches):
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 2, 4, 4, generator=g), torch.randint(6, (40,), generator=g)
    run = Run(tiny, rs.Arrays((x, y), (x, y), (x, y), batch_size=8, flip=False))
    run.do(Mark("dense"))
    with pytest.raises(rs.ResproutError, match="needs a task of token ids"):
        run.do(SelfDataDistill()(3)[0])
    model = Tiny()
    with pytest.raises(rs.ResproutError, match="mark it first"):
        Run(model, text()).do(SelfDataDistill()(3)[0])
