"""What to look at in agents: the interquartile mean with its interval, the rank of features, units that sleep.

Agarwal, Schwarzer, Castro, Courville, Bellemare: "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021, arXiv:2108.13264 (IQM, stratified bootstrap); Kumar, Agarwal, Ghosh, Levine: "Implicit Under-Parameterization
Inhibits Data-Efficient Deep Reinforcement Learning", ICLR 2021, arXiv:2010.14498 (srank); Sokar, Agarwal, Castro, Evci: "The
Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023, arXiv:2302.12902.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ResproutError


def iqm(scores: np.ndarray) -> float:
    """Return the mean of the middle half of all scores: a quarter (rounded down) is left out at either end."""
    flat = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
    cut = len(flat) // 4
    return float(flat[cut : len(flat) - cut].mean())


def interval(scores: np.ndarray, share: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of the IQM of scores (runs, tasks); runs are drawn anew for each task.

    Raises:
        ResproutError: another shape, or no score.
    """
    if np.ndim(scores) != 2 or not np.size(scores):
        raise ResproutError(f"scores are (runs, tasks), one or more of each, got {np.shape(scores)}")
    runs, tasks = np.shape(scores)
    rng = np.random.default_rng(seed)
    rows = rng.integers(runs, size=(draws, runs, tasks))
    found = [iqm(np.take_along_axis(np.asarray(scores), row, 0)) for row in rows]
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def srank(features: Tensor, share: float = 0.99) -> int:
    """Return how many singular values of features (samples, width) make up `share` of their sum."""
    values = torch.linalg.svdvals(features.double())
    total = float(values.sum())
    return int((values.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1 if total > 0 else 0


def dormant(activations: Mapping[str, Tensor], tau: float = 0.1) -> float:
    """Return the share of units (last dimension) whose mean |activation| is at most `tau` times their layer's mean."""
    asleep, units = 0, 0
    for values in activations.values():
        mean = values.flatten(0, -2).abs().mean(0)
        asleep += int((mean <= tau * mean.mean()).sum())
        units += len(mean)
    return asleep / max(1, units)
