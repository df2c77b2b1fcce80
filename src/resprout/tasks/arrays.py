"""Classification of arrays that fit in memory, augmented as tensors.

What this file does not do: read files (see `digits.py`, `cifar10.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.run import mix
from ..core.store import checksum
from ..core.task import SPLITS, Split, Task
from ..evaluate.perplexity import logits_of

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class Arrays(Task):
    """Classify arrays: cross-entropy to train, accuracy to choose.

    Args:
        train, validation, test: (inputs, labels); uint8 inputs are scaled to [0, 1], others taken as they are.
        mean, std: of each channel, to normalise by.
        batch_size: of a training step over all ranks.
        pad: random crops after zero-padding by so many pixels (0: none).
        flip: mirror half of the images.
        name: of the data, for people; a fingerprint of the data themselves stands beside it in the configuration.

    Raises:
        ResproutError: a split is empty, its labels do not match, or hold NaN.
    """

    train: Pair
    validation: Pair
    test: Pair
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    batch_size: int = 128
    pad: int = 0
    flip: bool = False
    name: str = "arrays"

    def __post_init__(self) -> None:
        for split in SPLITS:
            x, y = getattr(self, split)
            if len(x) == 0:
                raise ResproutError(f"the {split} split of task {self.name!r} is empty")
            if len(x) != len(y):
                raise ResproutError(f"the {split} split of task {self.name!r} has {len(x)} inputs and {len(y)} labels")
            if x.is_floating_point() and not torch.isfinite(x).all():
                raise ResproutError(f"the {split} split of task {self.name!r} holds NaN or infinity")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s}={len(getattr(self, s)[1])}" for s in SPLITS)
        how = ", ".join(f"{n}={getattr(self, n)}" for n in ("mean", "std", "batch_size", "pad", "flip"))
        return f"Arrays({self.name!r}, {sizes}, data={self.fingerprint}, {how})"

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
        """Yield (inputs float32, labels); see `Task.batches`."""
        x, y = getattr(self, split)
        rank, world = shard
        if split != "train":
            for at in range(start * 500, len(y), 500):
                rows = slice(at, at + 500)
                yield self._scale(x[rows])[rank::world], y[rows][rank::world]
            return
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(mix(seed, "order", epoch)))
        for i in range(start, self.steps_per_epoch):
            rows = order[i * self.batch_size : (i + 1) * self.batch_size]
            inputs = self._augment(x[rows], torch.Generator().manual_seed(mix(seed, "augment", epoch, i)))
            yield self._scale(inputs)[rank::world], y[rows][rank::world]

    def _scale(self, x: Tensor) -> Tensor:
        out = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
        if self.mean:
            shape = (1, -1, *(1,) * (x.dim() - 2))
            out = (out - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)
        return out

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x)
        if self.pad:
            height, width = x.shape[-2:]
            x = F.pad(x, (self.pad,) * 4)
            top, left = torch.randint(0, 2 * self.pad + 1, (2, n), generator=generator)
            rows = (top[:, None] + torch.arange(height)).view(n, 1, height, 1)
            cols = (left[:, None] + torch.arange(width)).view(n, 1, 1, width)
            x = x[torch.arange(n).view(n, 1, 1, 1), torch.arange(x.shape[1]).view(1, -1, 1, 1), rows, cols]
        if self.flip:
            mirrored = torch.rand(n, generator=generator) < 0.5
            x = torch.where(mirrored.view(n, 1, 1, 1), x.flip(-1), x)
        return x

    def loss(self, model: nn.Module, batch: Pair) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(logits_of(model(batch[0])).float(), batch[1])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return {"accuracy": fraction in [0, 1], "loss": mean cross-entropy}."""
        return classified(model, self.batches(split))


def classified(model: nn.Module, batches: Iterator[Pair]) -> dict[str, float]:
    """Return {"accuracy": fraction in [0, 1], "loss": mean cross-entropy} of a classifier on (inputs, labels)."""
    device = next(model.parameters()).device
    right, loss, n = 0, 0.0, 0
    with torch.no_grad():
        for x, y in batches:
            y = y.to(device)
            out = logits_of(model(x.to(device))).float()
            right += int((out.argmax(1) == y).sum())
            loss += float(F.cross_entropy(out, y, reduction="sum"))
            n += len(y)
    return {"accuracy": right / n, "loss": loss / n}
