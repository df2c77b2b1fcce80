"""Membership inference: scores that are higher for samples a network was trained on, and how well they tell.

See `audit/privacy.py` for where the attacks are from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.errors import ResproutError
from .outputs import Outputs

TINY = 1e-12  # what a probability of 0 counts as


def confidence(said: Outputs) -> Tensor:
    """Return the probability of the predicted class: needs no label."""
    return said.confidence


def entropy(said: Outputs) -> Tensor:
    """Return the negative entropy of the prediction in nats: needs no label."""
    p = said.logits.double().softmax(1)
    return torch.special.xlogy(p, p).sum(1)


def modified_entropy(said: Outputs) -> Tensor:
    """Return (1 - p_y) log p_y + sum over other classes of p log(1 - p): 0 where the label is certain, lower elsewhere."""
    p = said.logits.double().softmax(1)
    own = p.gather(1, said.labels[:, None])[:, 0]
    others = p * (1 - p).clamp_min(TINY).log()
    return (1 - own) * own.clamp_min(TINY).log() + others.sum(1) - others.gather(1, said.labels[:, None])[:, 0]


def loss(said: Outputs) -> Tensor:
    """Return the negative cross-entropy."""
    return -F.cross_entropy(said.logits.double(), said.labels, reduction="none")


ATTACKS: dict[str, Callable[[Outputs], Tensor]] = {
    "confidence": confidence,
    "entropy": entropy,
    "modified entropy": modified_entropy,
    "loss": loss,
}


def network_attack(members: Outputs, strangers: Outputs, seed: int = 0, steps: int = 300) -> tuple[Tensor, Tensor]:
    """Train a small network to tell half of the members from half of the strangers, and return its scores of the others.

    It sees the log-probabilities in descending order, that of the label, and the label.
    """
    x = [_seen(said) for said in (members, strangers)]
    half = [len(part) // 2 for part in x]
    learn = torch.cat([part[:h] for part, h in zip(x, half, strict=True)])
    truth = torch.cat([torch.full((h,), 1.0 - i) for i, h in enumerate(half)])
    mean, std = learn.mean(0), learn.std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        attacker = nn.Sequential(nn.Linear(x[0].shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
        optimizer = torch.optim.AdamW(attacker.parameters(), 3e-3, weight_decay=1e-2)
        for _ in range(steps):
            rows = torch.randint(len(learn), (min(256, len(learn)),))
            value = F.binary_cross_entropy_with_logits(attacker((learn[rows] - mean) / std)[:, 0], truth[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    with torch.no_grad():
        scores = [attacker((part[h:] - mean) / std)[:, 0].double() for part, h in zip(x, half, strict=True)]
    return scores[0], scores[1]


def _seen(said: Outputs) -> Tensor:
    logs = said.logits.float().log_softmax(1).clamp_min(-30)
    own = logs.gather(1, said.labels[:, None])
    return torch.cat([logs.sort(1, descending=True).values, own, F.one_hot(said.labels, logs.shape[1]).float()], 1)


@dataclass(frozen=True)
class Attacked:
    """How well scores tell members from strangers; 0.5 and the rate itself are chance."""

    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    tpr_interval: tuple[float, float]


def attacked(
    inside: Tensor, outside: Tensor, rate: float = 0.01, draws: int = 500, level: float = 0.95, seed: int = 0
) -> Attacked:
    """Return the area under the curve, and the true-positive rate at the false-positive rate `rate`, with intervals.

    Equal scores count half in the area; at a rate they are all taken for strangers, so that the rate is kept.

    Args:
        inside, outside: scores of members and of strangers.
        rate: of strangers that may be taken for members.
        draws: of the bootstrap over members and over strangers.
        level: of the intervals.
        seed: of the draws.

    Raises:
        ResproutError: no member or no stranger, or scores that are not finite.
    """
    a, b = inside.double().numpy(), outside.double().numpy()
    if min(len(a), len(b)) == 0 or not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ResproutError("membership needs finite scores of members and of strangers")
    values, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    mine = np.bincount(place[: len(a)], minlength=len(values))[None]
    theirs = np.bincount(place[len(a) :], minlength=len(values))[None]
    chance, areas, rates = np.random.default_rng(seed), [], []
    for start in range(0, draws, 64):
        count = min(64, draws - start)
        drawn = [chance.multinomial(n, c[0] / n, count) for n, c in ((len(a), mine), (len(b), theirs))]  # of each value
        areas.append(_area(drawn[0], drawn[1]))
        rates.append(_rate(drawn[0], drawn[1], rate))
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(areas), ends)
    least, most = np.quantile(np.concatenate(rates), ends)
    return Attacked(
        float(_area(mine, theirs)[0]), (float(low), float(high)),
        float(_rate(mine, theirs, rate)[0]), (float(least), float(most)),
    )  # fmt: skip


def _area(mine: NDArray[np.integer], theirs: NDArray[np.integer]) -> NDArray[np.float64]:
    """The probability that a member scores higher than a stranger, of counts (draws, values) in ascending order."""
    below = np.cumsum(theirs, 1) - theirs / 2
    return (mine * below).sum(1) / (mine.sum(1) * theirs.sum(1))


def _rate(mine: NDArray[np.integer], theirs: NDArray[np.integer], rate: float) -> NDArray[np.float64]:
    """The most members above a value that at most `rate` of the strangers are above or at."""
    above = np.cumsum(theirs[:, ::-1], 1)  # strangers from each value upwards, from the top
    fits = above <= rate * theirs.sum(1, keepdims=True)
    return (mine[:, ::-1] * fits).sum(1) / mine.sum(1)


def best_threshold(inside: Tensor, outside: Tensor) -> float:
    """Return the score from which on "member" is said with the best balanced accuracy."""
    values = torch.cat([inside, outside]).double()
    order = values.argsort(descending=True)
    signs = torch.cat([torch.full((len(inside),), 1 / len(inside)), torch.full((len(outside),), -1 / len(outside))])
    gain, values = signs.double()[order].cumsum(0), values[order]
    last = torch.cat([values[1:] != values[:-1], torch.tensor([True])])  # equal scores go together
    return float(values[gain.masked_fill(~last, -2).argmax()])
