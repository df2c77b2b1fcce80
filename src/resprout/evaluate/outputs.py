"""What a classifier says of every sample, and what follows from it: confusion, recalls, calibration.

Expected calibration error: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
arXiv:1706.04599 (equation 3, bins of equal width).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError
from ..core.modes import evaluating
from ..core.store import load_tensors, save_tensors
from ..core.task import Split, Task


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits float32 (samples, classes) and labels int64 (samples,), in the order of the split."""

    logits: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.logits.dim() != 2 or len(self.logits) != len(self.labels) or len(self.labels) == 0:
            shapes = f"{tuple(self.logits.shape)} and {tuple(self.labels.shape)}"
            raise ResproutError(f"outputs are logits (samples, classes) and as many labels, got {shapes}")

    @cached_property
    def predicted(self) -> Tensor:
        """The most likely class of each sample."""
        return self.logits.argmax(1)

    @cached_property
    def right(self) -> Tensor:
        """Which samples are classified rightly, bool (samples,)."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the predicted class (samples,)."""
        return self.logits.double().softmax(1).amax(1)

    @property
    def accuracy(self) -> float:
        """A fraction in [0, 1]."""
        return float(self.right.double().mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(F.cross_entropy(self.logits.double(), self.labels))

    @cached_property
    def confusion(self) -> Tensor:
        """How often class i (row) was taken for j (column), int64 (classes, classes)."""
        classes = self.logits.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).view(classes, classes)

    @property
    def recalls(self) -> Tensor:
        """The accuracy on each class (classes,); NaN where the class does not occur."""
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    def binned(self, bins: int) -> Tensor:
        """Return the bin of confidence that each sample is in, int64 (samples,): k for (k / bins, (k + 1) / bins].

        Raises:
            ResproutError: no bin.
        """
        if bins < 1:
            raise ResproutError(f"bins must be 1 or more, got {bins}")
        return (self.confidence * bins).ceil().long().clamp(1, bins) - 1

    def calibration_error(self, bins: int = 15) -> float:
        """Return the expected calibration error: |accuracy - confidence| over bins of confidence, weighted."""
        off = self.confidence - self.right.double()
        gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, self.binned(bins), off)
        return float(gap.abs().sum() / len(self.labels))

    def save(self, file: Path) -> None:
        """Write both, with a checksum."""
        save_tensors(file, {"logits": self.logits, "labels": self.labels}, {})

    @classmethod
    def read(cls, file: Path) -> Outputs:
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is not there, damaged or foreign.
        """
        tensors, _ = load_tensors(file)
        if set(tensors) != {"logits", "labels"}:
            raise CheckpointError(f"{file} holds no outputs")
        return cls(tensors["logits"], tensors["labels"])


@torch.no_grad()
def outputs(model: nn.Module, task: Task, split: Split) -> Outputs | None:
    """Return what `model` says of a whole split, or None where the task is no classification of (inputs, labels)."""
    device, found = next(model.parameters()).device, []
    with evaluating(model):
        for batch in task.batches(split):
            if not isinstance(batch, tuple) or len(batch) != 2 or batch[1].dtype != torch.int64 or batch[1].dim() != 1:
                return None
            logits = model(batch[0].to(device)).float().cpu()
            if logits.dim() != 2 or len(logits) != len(batch[1]):
                return None
            found.append((logits, batch[1].cpu()))
    return Outputs(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]))
