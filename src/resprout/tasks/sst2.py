"""SST-2, sentences of film reviews that are good or bad: `train.tsv` and `dev.tsv` with columns `sentence` and `label`.

Socher et al.: "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013; as in GLUE, Wang et
al., arXiv:1804.07461. Words are cut into pieces by byte-pair encoding: Sennrich, Haddow, Birch, ACL 2016, arXiv:1508.07909.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError
from ..core.run import mix
from ..core.store import checksum, write
from ..core.task import SPLITS, Split, Task
from ..evaluate.perplexity import logits_of, read
from .arrays import classified
from .text import adamw

Pair = tuple[Tensor, Tensor]
VOCABULARY, LENGTH = 8000, 64
POOL = 50  # batches within which sentences are sorted by length


@dataclass(frozen=True, repr=False, eq=False)
class Sentences(Task):
    """Classify token ids that are padded with 0 on the right: cross-entropy to train, accuracy to choose.

    A batch is (ids int64 (samples, longest of the batch), labels int64 (samples,)); training batches hold sentences of about the
    same length.

    Args:
        train, validation, test: (ids int64 (samples, length), labels int64 (samples,)).
        batch_size: of a training step over all ranks.
        name: of the data, for people; a fingerprint of the data themselves stands beside it.

    Raises:
        ResproutError: a split that is empty, of other types, or holds a sentence of padding alone.
    """

    train: Pair
    validation: Pair
    test: Pair
    batch_size: int = 64
    name: str = "sentences"

    def suits(self, model: nn.Module) -> dict[str, Any]:
        """As of language models."""
        return adamw(model)

    def __post_init__(self) -> None:
        for split in SPLITS:
            ids, labels = getattr(self, split)
            if ids.dim() != 2 or ids.dtype != torch.int64 or labels.dtype != torch.int64 or len(ids) != len(labels):
                raise ResproutError(
                    f"the {split} split of task {self.name!r} is not ids (n, length) and n labels, both int64"
                )
            if len(ids) == 0 or not bool(ids.any(1).all()):
                raise ResproutError(
                    f"the {split} split of task {self.name!r} is empty, or holds a sentence without a word"
                )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s}={len(getattr(self, s)[1])}" for s in SPLITS)
        return f"Sentences({self.name!r}, {sizes}, data={self.fingerprint}, batch_size={self.batch_size})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data, so that a run on other data is another run."""
        return checksum({f"{s}{i}": getattr(self, s)[i] for s in SPLITS for i in (0, 1)})[:12]

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the training data (at least one)."""
        return max(1, len(self.train[1]) // self.batch_size)

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Pair]:
        """Yield (ids, labels); see `Task.batches`."""
        ids, labels = getattr(self, split)
        rank, world = shard
        chosen = torch.arange(len(labels)).split(500) if split != "train" else self._order(mix(seed, "order", epoch))
        for rows in chosen[start:]:
            longest = int((ids[rows] != 0).sum(1).max())
            yield ids[rows, :longest][rank::world], labels[rows][rank::world]

    def _order(self, seed: int) -> Sequence[Tensor]:
        """The rows of each training batch: sorted by length within a pool, and the batches shuffled."""
        chance = torch.Generator().manual_seed(seed)
        lengths = (self.train[0] != 0).sum(1)
        used = torch.randperm(len(lengths), generator=chance)[: self.steps_per_epoch * self.batch_size]
        pools = [pool[lengths[pool].argsort(stable=True)] for pool in used.split(POOL * self.batch_size)]
        batches = [batch for pool in pools for batch in pool.split(self.batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=chance).tolist()]

    def loss(self, model: nn.Module, batch: Pair) -> Tensor:
        """Return the cross-entropy, as float32."""
        return F.cross_entropy(logits_of(model(batch[0])).float(), batch[1])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return {"accuracy": fraction in [0, 1], "loss": mean cross-entropy}."""
        return classified(model, self.batches(split))


def sst2(data: str | Path | None = None, seed: int = 0) -> Sentences:
    """Return the task: test is `dev.tsv` (GLUE keeps its test labels), validation and train are of `train.tsv`.

    Validation is the last 5 % of its rows, without those whose sentence is also among the others. Training rows are phrases cut
    from sentences, so parts of a validation row may still be among them, and validation accuracy is higher than that of test.
    Sentences are lower case, cut into pieces of 8,000 that the training rows alone have made, and at 64 pieces.

    Args:
        data: folder with `train.tsv` and `dev.tsv`.
        seed: not used (the split is by rows).

    Raises:
        ResproutError: no such folder or files, tokenizers missing, or a line that is no row.
    """
    if data is None:
        raise ResproutError("task 'sst2' needs --data FOLDER (with train.tsv and dev.tsv)")
    rows, test = (table(Path(data) / file) for file in ("train.tsv", "dev.tsv"))
    if len(rows) < 20:
        raise ResproutError(
            f"{data} holds {len(rows)} training rows; 20 or more are needed, a part of them to validate"
        )
    last = len(rows) // 20
    train = rows[:-last]
    known = {sentence for sentence, _ in train}
    validation = [row for row in rows[-last:] if row[0] not in known]
    pieces = tokenizer([sentence for sentence, _ in train])
    splits = [(_ids(pieces, [s for s, _ in r]), torch.tensor([y for _, y in r])) for r in (train, validation, test)]
    return Sentences(splits[0], splits[1], splits[2], name="sst2")


def table(file: Path) -> list[tuple[str, int]]:
    """Return (sentence, label) of every row of a file of tab-separated values.

    Raises:
        ResproutError: no such file, another header, or a line that is no row, by its number.
    """
    lines = read(file).split("\n")
    if lines[0].split("\t") != ["sentence", "label"]:
        raise ResproutError(f"{file} begins with {lines[0][:40]!r}; columns are sentence and label, parted by a tab")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        sentence, _, label = line.rpartition("\t")
        if sentence.strip() and label in ("0", "1"):
            rows.append((sentence.strip().lower(), int(label)))
        elif line:
            raise ResproutError(f"{file}, line {number}: a row is a sentence, a tab, and 0 or 1; got {line[:60]!r}")
    return rows


def tokenizer(sentences: Sequence[str]) -> Any:
    """Return the pieces that `sentences` make, a `tokenizers.Tokenizer` that pads with id 0, made once and cached.

    The cache is in RESPROUT_CACHE, or ~/.cache/resprout, under a hash of the sentences.

    Raises:
        ResproutError: tokenizers is missing.
        CheckpointError: the cached file is damaged.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise ResproutError("cutting sentences into tokens needs tokenizers: pip install 'resprout[text]'") from error
    stamp = hashlib.sha256("\n".join((str(VOCABULARY), *sentences)).encode()).hexdigest()[:12]
    root = Path(os.environ.get("RESPROUT_CACHE") or Path.home() / ".cache" / "resprout")
    cache = root / f"sst2-pieces-{stamp}.json"
    if cache.exists():
        try:
            return Tokenizer.from_file(str(cache))
        except Exception as error:  # tokenizers raises plain ones
            raise CheckpointError(f"{cache} is damaged ({error}); delete it, and it is made again") from error
    made = Tokenizer(models.BPE(unk_token="[UNK]"))  # of WordPiece the trainer makes another vocabulary at each run
    made.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["[PAD]", "[UNK]"], show_progress=False)  # pyright: ignore
    made.train_from_iterator(sentences, trainer)
    made.enable_truncation(LENGTH)
    made.enable_padding(pad_id=0, pad_token="[PAD]", length=LENGTH)
    write(cache, made.to_str().encode())
    return made


def _ids(pieces: Any, sentences: Sequence[str]) -> Tensor:
    """Token ids int64 (sentences, LENGTH)."""
    return torch.tensor([encoding.ids for encoding in pieces.encode_batch(list(sentences))], dtype=torch.int64).view(
        -1, LENGTH
    )
