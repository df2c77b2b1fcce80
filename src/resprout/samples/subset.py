"""A task that serves a part of its training samples, and the step that draws this part.

Works for tasks that hold their training samples as a field `train` = (inputs, labels): `Arrays`, `Sentences` and what is made
of them. Which samples are kept is noted in the journal, as bits in hexadecimal, so that a resumed run serves the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError
from ..core.masks import Masks
from ..core.select import top
from ..core.store import checksum
from ..core.task import Split, Task, samples

Pair = tuple[Tensor, Tensor]


def pair(task: Task) -> Pair:
    """Return all training samples of a task: inputs and labels.

    Raises:
        ResproutError: it does not hold them.
    """
    return samples(task, "of which a part could be served")


def shown(task: Task) -> Task:
    """Return a task whose validation split is the training samples, in order and as they are."""
    return dataclasses.replace(task, validation=pair(task))  # pyright: ignore[reportArgumentType, reportCallIssue]


def check_share(share: float, offset: float = 0.0) -> None:
    """Say whether `choose` can keep so many.

    Raises:
        ResproutError: it cannot.
    """
    if not (0 < share <= 1 and offset >= 0 and share + offset <= 1 + 1e-9):
        raise ResproutError(f"of all samples a share in (0, 1] is kept below an offset, got {share:g} below {offset:g}")


@torch.no_grad()
def choose(scores: Tensor, share: float, offset: float = 0.0) -> Tensor:
    """Return which samples are kept, bool (samples,): the best `share` of all below the very best `offset`.

    Raises:
        ResproutError: shares that are no share, or leave no sample; a score that is not finite.
    """
    check_share(share, offset)
    n = len(scores)
    keep, skip = max(1, round(share * n)), math.floor(offset * n + 1e-9)
    skip = min(skip, n - keep)
    best = top({"samples": scores.float()}, skip)["samples"]
    return top({"samples": scores.float()}, keep, Masks({"samples": ~best}))["samples"]


def to_text(keep: Tensor) -> str:
    """Return bits as hexadecimal, for the journal."""
    return np.packbits(keep.cpu().numpy()).tobytes().hex()


def from_text(text: str, samples: int) -> Tensor:
    """Return the bits of `to_text`, bool (samples,).

    Raises:
        CheckpointError: a text that is cut short, or of another number of samples.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    except ValueError as error:
        raise CheckpointError(f"the journal's bits of {samples} samples are no hexadecimal text") from error
    if len(bits) != -(-samples // 8) * 8:
        raise CheckpointError(f"the journal has {len(bits)} bits of samples where the task has {samples} samples")
    return torch.from_numpy(bits[:samples].astype(bool))


class Subset(Task):
    """Serve those training samples of `task` that are True in `keep`; the other splits are the task's own.

    Args:
        task: with all samples; its `metric` becomes this one's.
        keep: bool (samples,).
        since: the run's trained steps when this part was drawn, so that its epochs begin there.

    Raises:
        ResproutError: a task that holds no samples, or bits that do not fit them.
    """

    def __init__(self, task: Task, keep: Tensor, since: int = 0):
        inputs, labels = pair(task)
        if keep.dtype != torch.bool or keep.shape != labels.shape[:1] or not bool(keep.any()):
            raise ResproutError(
                f"of {len(labels)} samples some are kept by as many bools, got {keep.dtype} {tuple(keep.shape)}"
            )
        self.task, self.keep, self.since = task, keep, since
        part = {"train": (inputs[keep], labels[keep])}
        self._inner: Task = dataclasses.replace(task, **part)  # pyright: ignore
        self.metric = task.metric  # pyright: ignore[reportAttributeAccessIssue]

    def __repr__(self) -> str:
        kept = f"keep={int(self.keep.sum())} of {len(self.keep)}, data={self.fingerprint}"
        return f"Subset({self.task!r}, {kept}, since={self.since})"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which samples are kept."""
        return checksum({"keep": self.keep})[:12]

    def suits(self, model: nn.Module) -> Mapping[str, Any]:
        """As of the whole task."""
        return self.task.suits(model)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the kept samples."""
        return self._inner.steps_per_epoch

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Any]:
        """Yield the batches of one epoch, counted from `since` on; see `Task.batches`."""
        if split == "train" and self.since:
            epoch, start = divmod(epoch * self.steps_per_epoch + start - self.since, self.steps_per_epoch)
        return self._inner.batches(split, seed=seed, epoch=epoch, start=start, shard=shard)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the task's own loss."""
        return self._inner.loss(model, batch)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return the task's own metrics; those of "train" are of the kept samples."""
        return self._inner.evaluate(model, split)
