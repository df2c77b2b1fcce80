"""How far probabilities can be believed: reliability per bin of confidence, and the distance to the true distribution.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599 (reliability diagrams; the
expected calibration error is `Outputs.calibration_error`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ResproutError
from .outputs import Outputs


@dataclass(frozen=True)
class Reliability:
    """Per bin of confidence, (k / bins, (k + 1) / bins]: samples, the sum of their confidences, and how many are right."""

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    right: tuple[int, ...]

    def __add__(self, other: Reliability) -> Reliability:
        if len(self.counts) != len(other.counts):
            raise ResproutError(f"these have {len(self.counts)} and {len(other.counts)} bins; take the same")
        pairs = zip(
            (self.counts, self.confidence, self.right), (other.counts, other.confidence, other.right), strict=True
        )
        return Reliability(*(tuple(a + b for a, b in zip(x, y, strict=True)) for x, y in pairs))  # pyright: ignore

    @property
    def error(self) -> float:
        """The expected calibration error."""
        gaps = (abs(c - r) for c, r in zip(self.confidence, self.right, strict=True))
        return sum(gaps) / sum(self.counts)


def reliability(said: Outputs, bins: int = 15) -> Reliability:
    """Return the reliability of a classifier.

    Raises:
        ResproutError: no bin.
    """
    index = said.binned(bins)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, said.confidence)
    right = torch.bincount(index, said.right.double(), bins).long()
    return Reliability(
        tuple(torch.bincount(index, minlength=bins).tolist()), tuple(sums.tolist()), tuple(right.tolist())
    )


def divergence(truth: Tensor, said: Outputs) -> float:
    """Return the mean of KL(truth || model) in nats; `truth` is p(class | input) (samples, classes).

    Raises:
        ResproutError: another shape, or rows that are no probabilities.
    """
    p = truth.double()
    if p.shape != said.logits.shape:
        raise ResproutError(
            f"truth is (samples, classes) as the logits, {tuple(said.logits.shape)}, got {tuple(p.shape)}"
        )
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p)).double(), atol=1e-5):
        raise ResproutError("truth must hold probabilities: rows of numbers from 0 that sum to 1")
    q = said.logits.double().log_softmax(1)
    return float((torch.special.xlogy(p, p) - p * q).sum(1).mean())
