"""Next-token prediction on text files, with the tokenizer of the model.

What this file does not do: the protocol of perplexity (`evaluate/perplexity.py`, "windows" here), or load a model (`hub.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.run import mix
from ..core.store import checksum
from ..core.task import SPLITS, Split, Task
from ..core.train import Optimizer
from ..evaluate.perplexity import encode, likelihoods, logits_of, opening, read, total, windows
from . import hub

ROWS = 16  # of a batch of the splits that are not trained on
FILES = {"train": "train*.txt", "validation": "valid*.txt", "test": "test*.txt"}


def adamw(model: nn.Module) -> dict[str, Any]:
    """Return what suits transformers: AdamW, its rate falling with the width, about the root of the number of parameters.

    The rate is one that does well on `stories260k`; that the best one falls so is Yang et al., arXiv:2203.03466.
    """
    rate = 3e-3 * (260_000 / max(1, sum(p.numel() for p in model.parameters()))) ** 0.5
    return {"lr": float(f"{min(rate, 1e-2):.0e}"), "optimizer": Optimizer("adamw")}


@dataclass(frozen=True, repr=False, eq=False)
class Text(Task):
    """Predict the next token: cross-entropy to train, the geometric mean of the token's probability to choose.

    That mean is 1 / perplexity, a fraction in which higher is better. A batch is int64 (samples, window).

    Args:
        train, validation, test: token ids int64 (tokens,), each split as one text.
        window: tokens that the model sees at once, `bos` included.
        bos: the id that every window begins with; None for none.
        batch_size: windows of a training step over all ranks.
        name: of the data, for people, and how they were split; a fingerprint of the tokens stands beside it.

    Raises:
        ResproutError: a split that does not fill one window, or is no int64 of one dimension.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    window: int = 512
    bos: int | None = None
    batch_size: int = 8
    name: str = "text"
    metric: ClassVar[str] = "likelihood"

    def __post_init__(self) -> None:
        for split in SPLITS:
            try:
                windows(getattr(self, split)[: self.window], self.window, None, self.bos)
            except ResproutError as error:
                raise ResproutError(f"the {split} split of task {self.name!r}: {error}") from error
        if self.batch_size < 1:
            raise ResproutError(f"batch_size must be 1 or more, got {self.batch_size}")

    def suits(self, model: nn.Module) -> dict[str, Any]:
        """AdamW, and the smaller the larger the model."""
        return adamw(model)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s}={len(getattr(self, s))}" for s in SPLITS)
        how = ", ".join(f"{n}={getattr(self, n)}" for n in ("window", "bos", "batch_size"))
        return f"Text({self.name!r}, {sizes}, data={self.fingerprint}, {how})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens, so that a run on other data, or with another tokenizer, is another run."""
        return checksum({s: getattr(self, s) for s in SPLITS})[:12]

    @property
    def _step(self) -> int:
        return self.window - (self.bos is not None)

    @property
    def _windows(self) -> int:
        """Windows of an epoch of training: one fewer than fit, so that they can begin anywhere within one."""
        return max(1, len(self.train) // self._step - 1)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the training data (at least one)."""
        return max(1, self._windows // self.batch_size)

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        """Yield token ids int64 (samples, window); see `Task.batches`.

        Windows do not overlap. Those of "train" come in a random order and begin at a random token of each epoch.
        """
        rank, world = shard
        if split != "train":
            rows = windows(getattr(self, split), self.window, None, self.bos)
            for at in range(start * ROWS, len(rows), ROWS):
                yield torch.stack([r.ids for r in rows[at : at + ROWS]])[rank::world]
            return
        chance = torch.Generator().manual_seed(mix(seed, "order", epoch))
        spare = len(self.train) - self._windows * self._step
        first = int(torch.randint(spare + 1, (), generator=chance))
        order = torch.randperm(self._windows, generator=chance)
        rows = windows(self.train[first : first + self._windows * self._step], self.window, None, self.bos)
        for i in range(start, self.steps_per_epoch):
            chosen = order[i * self.batch_size : (i + 1) * self.batch_size].tolist()
            yield torch.stack([rows[j].ids for j in chosen])[rank::world]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Return the cross-entropy of each token but the first given those before it, in nats, as float32."""
        logits = logits_of(model(batch))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return likelihood (1 / perplexity), perplexity, loss (nats per token), accuracy (of the first choice) and tokens."""
        rows = windows(getattr(self, split), self.window, None, self.bos)
        return total(*likelihoods(model, rows, ROWS), rows).metrics()


def text(
    data: str | Path | Sequence[str | Path] | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    window: int | None = None,
    batch_size: int = 8,
) -> Text:
    """Return the task of a folder with `train*.txt`, `valid*.txt` and `test*.txt`, UTF-8.

    Where there is no test file, the validation file is divided at the story boundary (a blank line; else the line) nearest to its
    middle: the first half is validation, the second test; "halved" in the repr says so.

    Args:
        data: the folder, or a list of such files.
        seed: not used (the splits are files).
        tokenizer: of the model; an object, or the folder or name of a Hugging Face model that has it.
        window: tokens that the model sees at once; default 512, or fewer where the tokenizer says so.
        batch_size: windows of a training step.

    Raises:
        ResproutError: no folder, file or tokenizer, or a text that is too short.
    """
    if data is None:
        raise ResproutError("task 'text' needs --data FOLDER (with train*.txt and valid*.txt)")
    if tokenizer is None:
        raise ResproutError(
            "task 'text' needs the model's tokenizer: --model hf:FOLDER, or text(data, tokenizer='FOLDER')"
        )
    known = hub.tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    files = _files(data)
    parts = {split: [read(file) for file in files[split]] for split in SPLITS}
    name = "+".join(sorted({file.parent.name for found in files.values() for file in found}))
    if not parts["test"]:
        halves = [_halves(part, file) for part, file in zip(parts["validation"], files["validation"], strict=True)]
        parts["validation"], parts["test"] = [a for a, _ in halves], [b for _, b in halves]
        name += " (validation halved)"
    ids = {split: torch.cat([encode(known, part) for part in parts[split]]) for split in SPLITS}
    size = min(512, getattr(known, "model_max_length", 512)) if window is None else window
    return Text(ids["train"], ids["validation"], ids["test"], size, opening(known), batch_size, name)


def _files(data: str | Path | Sequence[str | Path]) -> dict[Split, list[Path]]:
    """The files of each split, by their names.

    Raises:
        ResproutError: none to train on or to validate.
    """
    if isinstance(data, str | Path):
        folder = Path(data)
        if not folder.is_dir():
            raise ResproutError(
                f"there is no folder {folder.resolve()}; pass --data FOLDER with train*.txt and valid*.txt"
            )
        where, files = str(folder), sorted(folder.iterdir())
    else:
        files = [Path(file) for file in data]
        where = "data="
    found: dict[Split, list[Path]] = {s: [f for f in files if f.match(FILES[s])] for s in SPLITS}
    missing = [FILES[s] for s in SPLITS[:2] if not found[s]]
    if missing:
        raise ResproutError(
            f"{where} holds no {' and no '.join(missing)}; the splits are told by the names of the files"
        )
    return found


def _halves(text: str, file: Path) -> tuple[str, str]:
    """Divide a text at the blank line, or else the line, nearest to its middle.

    Raises:
        ResproutError: one line only.
    """
    middle = len(text) // 2
    for boundary in ("\n\n", "\n"):
        places = [p for p in (text.rfind(boundary, 0, middle + len(boundary)), text.find(boundary, middle)) if p > 0]
        places = [p for p in places if text[:p].strip() and text[p:].strip()]
        if places:
            cut = min(places, key=lambda p: abs(p - middle)) + len(boundary)
            return text[:cut], text[cut:]
    raise ResproutError(f"{file} is one line, which cannot be divided into validation and test; add a test.txt")
