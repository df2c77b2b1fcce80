"""SST-2: splits, batches, the pieces that words are cut into, and the encoder that reads them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from resprout import find, models
from resprout.core.errors import CheckpointError, ResproutError
from resprout.core.masks import Masks
from resprout.evaluate.outputs import outputs
from resprout.tasks.sst2 import Sentences, sst2, table, tokenizer

pytest.importorskip("tokenizers")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RESPROUT_CACHE", str(tmp_path / "cache"))
    rows = [f"the film number {i} is {'good' if i % 2 else 'bad'} \t{i % 2}" for i in range(196)]
    rows += ["The film number 3 is good\t1", "a new one\t0", "another \tone\t1", "a new one\t0"]
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe film is good\t1\nzebras are bad\t0\n")
    return tmp_path


@pytest.fixture
def task() -> Sentences:
    """400 sentences of one to 20 words; the label is whether the first word is odd."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (400, 20), generator=g)
    ids[torch.arange(20)[None] >= torch.randint(1, 21, (400, 1), generator=g)] = 0
    pair = ids, ids[:, 0] % 2
    return Sentences(pair, (ids[:50], pair[1][:50]), (ids[50:700], pair[1][50:700]), batch_size=16)


def test_the_last_rows_validate_without_those_of_training(folder):
    task = sst2(folder)
    assert [len(getattr(task, s)[1]) for s in ("train", "validation", "test")] == [190, 9, 2]
    assert task.validation[1].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert task.test[1].tolist() == [1, 0]
    assert task.train[0].shape == (190, 64)
    assert repr(task) == repr(sst2(str(folder)))


def test_pieces_are_of_the_training_rows_the_same_each_time_and_kept(folder, monkeypatch):
    first = sst2(folder)
    (file,) = (folder / "cache").iterdir()
    kept = file.read_bytes()
    assert torch.equal(sst2(folder).train[0], first.train[0])
    file.unlink()
    assert repr(sst2(folder)) == repr(first)
    assert file.read_bytes() == kept
    pieces = tokenizer([s for s, _ in table(folder / "train.tsv")][:190])
    assert "zebras" not in "".join(pieces.get_vocab())
    assert pieces.encode("the film").ids[2:] == [0] * 62
    assert (pieces.token_to_id("[PAD]"), pieces.token_to_id("[UNK]")) == (0, 1)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="delete it"):
        sst2(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("text\tlabel\na\t1\n", "begins with 'text"),
        ("sentence\tlabel\na\t1\nb\t2\n", "line 3: a row is"),
        ("sentence\tlabel\na\t1\n \t0\n", "line 3: a row is"),
        ("sentence\tlabel\na 1\n", "line 2: a row is"),
        ("sentence\tlabel\na\t1\n", "holds 1 training rows"),
        ("", "begins with ''"),
    ],
)
def test_bad_files_are_named(folder, text, match):
    (folder / "train.tsv").write_text(text)
    with pytest.raises(ResproutError, match=match):
        sst2(folder)
    (folder / "train.tsv").unlink()
    with pytest.raises(ResproutError, match=r"train\.tsv cannot be read"):
        sst2(folder)
    with pytest.raises(ResproutError, match="needs --data"):
        sst2()


def test_bad_tensors_are_named(task):
    ids, labels = task.train
    with pytest.raises(ResproutError, match="without a word"):
        Sentences((ids * 0, labels), task.validation, task.test)
    with pytest.raises(ResproutError, match="both int64"):
        Sentences((ids.float(), labels), task.validation, task.test)
    with pytest.raises(ResproutError, match="both int64"):
        Sentences((ids, labels[:-1]), task.validation, task.test)


def test_an_epoch_has_every_row_once_in_batches_of_like_length(task):
    def epoch(**given) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(task.batches("train", **given))

    first = epoch(seed=1, epoch=2)
    assert len(first) == task.steps_per_epoch == 25
    rows = sorted(tuple(r[r != 0].tolist()) for x, _ in first for r in x)
    assert rows == sorted(tuple(r[r != 0].tolist()) for r in task.train[0])
    assert all(torch.equal(x[:, 0] % 2, y) for x, y in first)
    assert all((x != 0).sum(1).max() == x.shape[1] for x, _ in first)
    padding = sum(int((x == 0).sum()) for x, _ in first) / sum(x.numel() for x, _ in first)
    assert padding < 0.1 < float((task.train[0] == 0).float().mean())
    widths = [x.shape[1] for x, _ in first]
    assert widths != sorted(widths)
    again, other = epoch(seed=1, epoch=2), epoch(seed=1, epoch=3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert any(a[0].shape != b[0].shape for a, b in zip(first, other, strict=True))
    later = epoch(seed=1, epoch=2, start=20)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[20:], later, strict=True))
    part = epoch(seed=1, epoch=2, shard=(1, 2))
    assert all(torch.equal(a[0][1::2], b[0]) for a, b in zip(first, part, strict=True))


def test_the_encoder_does_not_see_padding(task):
    torch.manual_seed(0)
    model = models.build("encoder_small").eval()
    ids = task.train[0][:8]
    whole = model(ids)
    for row, logits in zip(ids, whole, strict=True):
        alone = model(row[row != 0][None])[0]
        assert torch.allclose(alone, logits, atol=1e-5)
    assert whole.shape == (8, 2)
    assert sum(p.numel() for p in model.parameters()) == 1_825_794
    assert Masks.dense(model).total == 4 * (4 * 128 * 128 + 2 * 128 * 512) + 2 * 128


def test_metrics_by_hand_and_outputs_in_order(task):
    torch.manual_seed(0)
    model = models.build("encoder_small").eval()
    found = task.evaluate(model, "test")
    with torch.no_grad():
        logits = model(task.test[0])
    assert found["accuracy"] == int((logits.argmax(1) == task.test[1]).sum()) / len(logits)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, task.test[1])), rel=1e-5)
    said = outputs(model, task, "test")
    assert said is not None
    assert torch.equal(said.labels, task.test[1])
    assert said.accuracy == pytest.approx(found["accuracy"])
    batch = next(iter(task.batches("train")))
    loss = float(task.loss(model, batch).detach())
    assert loss == pytest.approx(float(F.cross_entropy(model(batch[0]), batch[1]).detach()))


@pytest.mark.data
def test_sst2_is_what_its_readme_says(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RESPROUT_CACHE", str(tmp_path))
    task = find.task("sst2", data_dir / "sst2", "encoder_small")
    assert isinstance(task, Sentences)
    assert [len(getattr(task, s)[1]) for s in ("train", "validation", "test")] == [63_982, 3_327, 872]
    assert torch.bincount(task.test[1]).tolist() == [428, 444]
    assert task.fingerprint == "c09017cc8b6d"  # on any machine: the pieces are made alike
    assert int(task.train[0].max()) < 8000
    assert float((task.test[0] == 1).sum() / (task.test[0] != 0).sum()) < 0.001  # hardly a letter is unknown
