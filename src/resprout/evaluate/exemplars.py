"""Which samples, classes and groups compression changes: modal labels of populations, exemplars, over-indexing, rates.

Hooker, Courville, Clark, Dauphin, Frome, "What Do Compressed Deep Neural Networks Forget?", arXiv:1911.05248 (exemplars,
classes); Hooker, Moorosi, Clark, Bengio, Denton, "Characterising Bias in Compressed Models", arXiv:2010.03058 (groups).

Ties. With few networks several classes can be the most frequent one of a sample. They are all modal, and a sample is an
exemplar only where the two populations have no modal class in common. So neither the order of the networks nor that of the
classes decides, a tie makes no exemplar by itself, and equal populations have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..core.errors import ResproutError


def frequencies(predicted: Tensor, classes: int) -> Tensor:
    """Return how many networks give each class to each sample, int64 (samples, classes).

    Args:
        predicted: classes int64 (networks, samples).
        classes: how many there are.

    Raises:
        ResproutError: another shape, no network, or a class outside [0, classes).
    """
    if predicted.dim() != 2 or len(predicted) == 0 or predicted.is_floating_point():
        raise ResproutError(
            f"predicted is a tensor of classes (networks, samples), got {predicted.dtype} {tuple(predicted.shape)}"
        )
    if predicted.numel() and not 0 <= int(predicted.min()) <= int(predicted.max()) < classes:
        raise ResproutError(f"predicted holds {int(predicted.min())} to {int(predicted.max())}; classes is {classes}")
    return torch.zeros(predicted.shape[1], classes, dtype=torch.int64).scatter_add_(
        1, predicted.T.long(), torch.ones_like(predicted.T, dtype=torch.int64)
    )


def modal(predicted: Tensor, classes: int) -> Tensor:
    """Return which classes are modal, bool (samples, classes): all that tie for the most networks."""
    counts = frequencies(predicted, classes)
    return counts == counts.amax(1, keepdim=True)


def exemplars(dense: Tensor, compressed: Tensor, classes: int, labels: Tensor | None = None) -> Tensor:
    """Return the samples on which two populations differ, bool (samples,): no class is modal in both (see above for ties).

    Args:
        dense, compressed: classes int64 (networks, samples); the numbers of networks may differ.
        classes: how many there are.
        labels: where given, the label must besides be modal in one of the populations: one was right, the other not.

    Raises:
        ResproutError: as `frequencies`; or other samples.
    """
    if dense.shape[1:] != compressed.shape[1:]:
        raise ResproutError(
            f"the populations saw {dense.shape[1]} and {compressed.shape[1]} samples; give both the same"
        )
    a, b = modal(dense, classes), modal(compressed, classes)
    differ = ~(a & b).any(1)
    return differ if labels is None else differ & (a | b).gather(1, labels[:, None])[:, 0]


def disagreement(dense: Tensor, compressed: Tensor, classes: int) -> Tensor:
    """Return the share of pairs (one dense network, one compressed) that disagree, float64 (samples,)."""
    a, b = frequencies(dense, classes).double(), frequencies(compressed, classes).double()
    return 1 - (a / len(dense) * (b / len(compressed))).sum(1)


def agreement(predicted: Tensor, classes: int) -> float:
    """Return the mean share of networks that give a modal class."""
    return float(frequencies(predicted, classes).amax(1).double().mean() / len(predicted))


def accuracies(predicted: Tensor, labels: Tensor, among: Tensor | None = None) -> NDArray[np.float64]:
    """Return each network's accuracy (networks,) on the samples `among` (bool; default all); NaN where there are none."""
    right = predicted == labels
    right = right if among is None else right[:, among]
    return right.double().mean(1).numpy()


def over_indexing(chosen: Tensor, attribute: Tensor) -> float:
    """Return P(attribute | chosen) / P(attribute), both bool (samples,); NaN where nothing is chosen or has it."""
    if not bool(chosen.any()) or not bool(attribute.any()):
        return math.nan
    return float(attribute[chosen].double().mean() / attribute.double().mean())


def contrast(values: ArrayLike, chosen: ArrayLike) -> NDArray[np.float64]:
    """Return numbers whose mean over the samples is the mean over the chosen ones less that over the others.

    They are that difference's influence function, so that resampling samples resamples the difference.

    Args:
        values: (networks, samples).
        chosen: bool (samples,).

    Raises:
        ResproutError: all samples are chosen, or none.
    """
    x, c = np.asarray(values, dtype=np.float64), np.asarray(chosen, dtype=bool)
    if x.ndim != 2 or c.shape != x.shape[1:] or c.all() or not c.any():
        raise ResproutError(f"contrast needs samples on both sides, got {int(c.sum())} chosen of {c.size}")
    inside, outside = float(x[:, c].mean()), float(x[:, ~c].mean())
    share = c.mean()
    return np.where(c, (x - inside) / share, (outside - x) / (1 - share)) + (inside - outside)


def recalls(predicted: Tensor, labels: Tensor, classes: int) -> NDArray[np.float64]:
    """Return each network's accuracy on each class, float64 (networks, classes); NaN where a class does not occur."""
    member = torch.nn.functional.one_hot(labels, classes).double()
    return ((predicted == labels).double() @ member / member.sum(0)).numpy()


def relative(recall: NDArray[np.float64], accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return recall less the network's accuracy (networks, classes): the shift that all classes share is taken out."""
    return recall - accuracy[:, None]


@dataclass(frozen=True)
class Rates:
    """Of each network, on one group: the share it gets wrong, and of two classes the false positives and negatives.

    Arrays of shape (networks,); NaN where the group has no such sample, or there are more than two classes.
    """

    error: NDArray[np.float64]
    false_positive: NDArray[np.float64]
    false_negative: NDArray[np.float64]


def rates(predicted: Tensor, labels: Tensor, group: Tensor, classes: int = 2) -> Rates:
    """Return the rates on the samples of a group.

    Args:
        predicted: classes int64 (networks, samples).
        labels: int64 (samples,); of two classes, 1 is positive.
        group: bool (samples,).
        classes: how many there are.
    """
    error = 1 - accuracies(predicted, labels, group)
    if classes != 2:
        unknown = np.full(len(predicted), math.nan)
        return Rates(error, unknown, unknown)
    sides = [1 - accuracies(predicted, labels, group & (labels == side)) for side in (0, 1)]
    return Rates(error, sides[0], sides[1])


@dataclass(frozen=True)
class Welch:
    """Welch's test of two means: `t` is positive where the first is larger; all NaN where neither sample varies."""

    t: float
    df: float
    p: float


def welch(ours: ArrayLike, theirs: ArrayLike) -> Welch:
    """Return Welch's two-sided t-test of two independent samples with unlike variances.

    Where neither sample varies, t would be 0/0 or infinite whatever the number of networks: nothing is tested then.

    Raises:
        ResproutError: fewer than two numbers on a side, or NaN.
    """
    from scipy.special import stdtr

    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1 or min(len(a), len(b)) < 2:
        raise ResproutError(
            f"welch needs two or more numbers on each side, got {a.shape} and {b.shape}; train more networks"
        )
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ResproutError("welch needs finite numbers; leave out what is NaN, such as the recall of an absent class")
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb <= 1e-24 * max(1.0, a.mean() ** 2, b.mean() ** 2):  # equal numbers, up to rounding
        return Welch(math.nan, math.nan, math.nan)
    t = float((a.mean() - b.mean()) / math.sqrt(va + vb))
    df = float((va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)))
    return Welch(t, df, float(2 * stdtr(df, -abs(t))))
