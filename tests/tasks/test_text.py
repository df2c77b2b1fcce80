"""The text task: its splits, its batches, and that it measures what `perplexity` does."""

from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import resprout as rs
from resprout import find
from resprout.core.errors import ResproutError
from resprout.core.run import Run
from resprout.core.task import suited
from resprout.core.train import Optimizer
from resprout.methods.recipe.one_way import OneWay
from resprout.tasks.digits import digits
from resprout.tasks.text import Text, text

tokenizers = pytest.importorskip("tokenizers")


def letters() -> "tokenizers.Tokenizer":
    """A token for each letter, the blank and the end of a line."""
    signs = ["?", *"abcdefghijklmnopqrstuvwxyz .\n"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({s: i for i, s in enumerate(signs)}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return made


class Bigrams(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.table = nn.Embedding(size, 8)
        self.out = nn.Linear(8, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(ids))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train-a.txt").write_text("the cat sat on the mat.\n" * 40)
    (tmp_path / "train-b.txt").write_text("a dog ran.\n" * 40)
    (tmp_path / "validation.txt").write_text("\n\n".join(["once a cat.\nshe sat.", "once a dog. he ran far away."] * 8))
    return tmp_path


@pytest.fixture
def task() -> Text:
    return Text(torch.arange(1000), torch.arange(95), torch.arange(50), window=10, bos=7, batch_size=4)


def test_a_folder_is_read_and_its_validation_file_halved_between_stories(folder):
    made = text(folder, tokenizer=letters(), window=16)
    whole = letters().encode((folder / "validation.txt").read_text()).ids
    assert [*made.validation.tolist(), *made.test.tolist()] == whole
    halves = [letters().decode(part.tolist()).replace(" ", "") for part in (made.validation, made.test)]
    assert all(half.startswith("once") for half in halves)
    assert len(made.validation) - len(made.test) == 2  # the blank line
    assert len(made.train) == 40 * (24 + 11)
    assert made.bos is None
    assert "(validation halved)" in repr(made)
    assert made.window == 16
    (folder / "test.txt").write_text("once a bird. she flew.\n" * 5)
    own = text(folder, tokenizer=letters(), window=16)
    assert own.validation.tolist() == whole
    assert "halved" not in repr(own)
    assert repr(own) != repr(made)
    assert repr(own) == repr(text(str(folder), tokenizer=letters(), window=16))
    files = sorted(folder.iterdir())
    assert repr(text(files, tokenizer=letters(), window=16)) == repr(own)


def test_lines_are_the_boundary_where_there_are_no_stories(folder):
    (folder / "validation.txt").write_text("one line here.\n" * 10)
    made = text(folder, tokenizer=letters(), window=16)
    assert len(made.validation) == len(made.test) == 75


def test_training_windows_are_shuffled_shifted_and_repeatable(task):
    def epoch(**given) -> torch.Tensor:
        return torch.cat(list(task.batches("train", **given)))

    first = epoch(seed=1, epoch=2)
    assert task.steps_per_epoch == (1000 // 9 - 1) // 4 == 27
    assert first.shape == (108, 10)
    assert first.dtype == torch.int64
    assert torch.equal(first, epoch(seed=1, epoch=2))
    assert not torch.equal(first, epoch(seed=1, epoch=3))
    assert not torch.equal(first, epoch(seed=2, epoch=2))
    assert (first[:, 0] == 7).all()
    assert (first[:, 1:].diff(dim=1) == 1).all()  # each is a piece of the text
    starts = first[:, 1]
    assert len(starts.unique()) == len(starts)
    assert len((starts % 9).unique()) == 1  # which do not overlap
    offsets = {int(epoch(seed=0, epoch=e)[0, 1]) % 9 for e in range(60)}
    assert offsets == set(range(9))
    assert not torch.equal(starts, starts.sort().values)


def test_start_and_shards_are_parts_of_the_same_epoch(task):
    whole = list(task.batches("train", seed=3))
    later = list(task.batches("train", seed=3, start=25))
    assert [torch.equal(a, b) for a, b in zip(whole[25:], later, strict=True)] == [True, True]
    for batch, *parts in zip(whole, *(task.batches("train", seed=3, shard=(r, 2)) for r in (0, 1)), strict=True):
        assert torch.equal(batch[0::2], parts[0])
        assert torch.equal(batch[1::2], parts[1])
    held = torch.cat(list(task.batches("validation")))
    assert held[:, 1].tolist() == list(range(0, 90, 9))
    assert torch.equal(next(iter(task.batches("test", shard=(1, 2))))[:, 1], torch.arange(9, 45, 18))


def test_a_text_of_one_window_has_one_batch():
    tiny = Text(torch.arange(12), torch.arange(9), torch.arange(9), window=9)
    assert tiny.steps_per_epoch == 1
    assert next(iter(tiny.batches("train"))).shape == (1, 9)


def test_loss_and_metrics_by_hand(folder):
    made = text(folder, tokenizer=letters(), window=12)
    torch.manual_seed(0)
    model = Bigrams(30)
    batch = next(iter(made.batches("train")))
    by_hand = torch.stack([F.cross_entropy(model(row)[:-1], row[1:]) for row in batch]).mean()
    assert float(made.loss(model, batch).detach()) == pytest.approx(float(by_hand.detach()), rel=1e-6)
    found = made.evaluate(model, "test")
    same = rs.perplexity(model, made.test, window=12)
    assert found == same.metrics()
    assert found["likelihood"] == pytest.approx(1 / found["perplexity"])
    assert set(found) == {"likelihood", "perplexity", "loss", "tokens", "accuracy"}
    assert made.metric in found


def test_a_run_trains_on_text(folder):
    (folder / "validation.txt").write_text("a cat ran.\nthe dog sat on the mat.\n" * 20)
    made = text(folder, tokenizer=letters(), window=12, batch_size=2)
    torch.manual_seed(0)
    model = Bigrams(30)
    before = made.evaluate(model, "validation")["likelihood"]
    result = rs.fit(model, made, 0.5, epochs=2, out=None, curve=False, precision="fp32")
    assert result.frontier[0].validation > 1.5 * before
    assert 0 < result.frontier[0].test <= 1


def test_recipes_have_what_suits_text_unless_something_else_is_said(task):
    small, large = torch.nn.Linear(1000, 260, bias=False), torch.nn.Linear(100_000, 260, bias=False, device="meta")
    assert suited(OneWay(), task, small) == OneWay(lr=3e-3, optimizer=Optimizer("adamw"))
    assert suited(OneWay(), task, large).lr == 3e-4
    assert suited(OneWay(lr=0.5, epochs=3), task, small) == OneWay(lr=0.5, epochs=3, optimizer=Optimizer("adamw"))
    assert suited(OneWay(), digits(), small) == OneWay()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "validation.txt").unlink(), r"holds no valid\*.txt"),
        (lambda f: [p.unlink() for p in f.glob("train*")], r"holds no train\*.txt"),
        (lambda f: (f / "train-a.txt").write_text(""), "empty"),
        (lambda f: (f / "train-a.txt").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda f: (f / "validation.txt").write_text("short.\nshort."), "validation split .* 7 tokens"),
        (lambda f: (f / "validation.txt").write_text("one line only"), "cannot be divided"),
    ],
)
def test_bad_folders_are_named(folder, change, match):
    change(folder)
    with pytest.raises(ResproutError, match=match):
        text(folder, tokenizer=letters(), window=12)


def test_bad_arguments_are_named(folder, task):
    with pytest.raises(ResproutError, match="no folder"):
        text(folder / "nowhere", tokenizer=letters())
    with pytest.raises(ResproutError, match="needs --data"):
        text(tokenizer=letters())
    with pytest.raises(ResproutError, match="hf:FOLDER"):
        find.task("text", folder, "mlp")
    with pytest.raises(ResproutError, match="batch_size"):
        text(folder, tokenizer=letters(), window=12, batch_size=0)
    with pytest.raises(ResproutError, match="int64"):
        Text(torch.rand(100), task.validation, task.test, window=10)
    with pytest.raises(ResproutError, match="is it its tokenizer"):
        Text(task.train, task.validation, task.test, window=10).evaluate(Bigrams(30), "validation")


@pytest.mark.data
def test_tinystories_with_the_tokenizer_of_the_model(data_dir):
    pytest.importorskip("transformers")
    task = find.task("text", data_dir / "tinystories", f"hf:{data_dir / 'stories260k'}")
    assert isinstance(task, Text)
    assert len(task.train) // 511 == 933
    assert (task.window, task.bos) == (512, 1)
    assert len(task.validation) + len(task.test) == 393_018
    assert task.steps_per_epoch == 932 // 8
    network = find.network(f"hf:{data_dir / 'stories260k'}", None)
    few = Text(task.train, task.validation[:2050], task.test[:2050], 512, 1)
    values = Run(network, few).evaluate("validation")
    assert 1 / values == pytest.approx(rs.perplexity(network, few.validation, window=512, bos=1).perplexity, rel=1e-5)
    loss = few.loss(network, next(islice(few.batches("train"), 1)))
    assert 1.2 < float(loss.detach()) < 2.2
