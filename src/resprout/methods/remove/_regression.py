"""What each unit is worth, from the worth of random sub-networks: a ridge regression towards a prior; not a method.

Dery, Kolawole, Kagy, Smith, Neubig, Talwalkar: "Everybody Prune Now: Structured Pruning of LLMs with only Forward Passes",
arXiv:2402.05406.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def draw(chance: Tensor, drop: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return two masks (units,), bool: one lacks `drop` units, drawn by `chance`, the other all that may go besides.

    Args:
        chance: of each unit to be dropped, at any scale; 0 for one that always stays.
        drop: half of those that may go.
        generator: the only source of randomness.
    """
    may = chance > 0
    gone = torch.zeros_like(may)
    gone[torch.multinomial(chance.double(), drop, generator=generator)] = True
    return ~gone, ~(may & ~gone)


def regress(masks: Tensor, worth: Tensor, prior: Tensor, strengths: Sequence[float], folds: int = 5) -> Tensor:
    """Return beta (units,) of worth ~ beta . mask + b, pulled to the multiple of `prior` that fits best; its order counts.

    Args:
        masks: bool (networks, units).
        worth: (networks,), higher is better.
        prior: (units,).
        strengths: of the penalty |beta - prior|^2, times the number of networks; the best by Kendall's tau on left-out folds.
        folds: networks are dealt to them in turn.
    """
    x, y, to = masks.double(), _standard(worth.double()), _standard(prior.double())
    if len(strengths) > 1:
        deal = torch.arange(len(y)) // 2 % folds  # a network and its complement stay together
        trusted = []
        for strength in strengths:
            taus = []
            for fold in range(min(folds, (len(y) + 1) // 2)):
                inside = deal != fold
                beta = _ridge(x[inside], y[inside], to, strength) if bool(inside.any()) else to
                taus.append(tau(x[~inside] @ beta, y[~inside]))
            trusted.append(sum(taus) / len(taus))
        strengths = [strengths[max(range(len(trusted)), key=trusted.__getitem__)]]
    return _ridge(x, y, to, strengths[0])


def tau(a: Tensor, b: Tensor) -> float:
    """Return Kendall's tau-a of two rows of numbers: pairs in the same order less those in the other, as a part of all."""
    n = len(a)
    agree = ((a[:, None] - a).sign() * (b[:, None] - b).sign()).sum() / 2
    return float(agree) / max(1, n * (n - 1) // 2)


def _ridge(x: Tensor, y: Tensor, prior: Tensor, strength: float) -> Tensor:
    x, y = x - x.mean(0), y - y.mean()
    said = x @ prior
    prior = prior * max(0.0, float(said @ y) / max(float(said @ said), 1e-30))
    ridge = strength * len(y) * torch.eye(x.shape[1], dtype=x.dtype)
    return prior + torch.linalg.solve(x.T @ x + ridge, x.T @ (y - x @ prior))


def _standard(v: Tensor) -> Tensor:
    off = v.std(correction=0)
    return (v - v.mean()) / torch.where(off > 0, off, 1.0)
