"""From scores to what stays: exact counts for each tensor, each row, each run of columns; of equals the first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import select
from .errors import ResproutError, check_sparsity
from .kinds import Allocation, Pick, Scores, Wishes
from .masks import Masks

TRIES = 6  # allowances until about the right number of weights is bought


def best(
    scores: Scores,
    keep: int,
    allocate: Allocation,
    floor: int,
    ceiling: float,
    prices: Mapping[str, float] | None,
) -> Masks:
    """The best `keep` of whatever has these scores, single weights or units."""
    counts, chosen = counted(scores, keep, allocate, floor, ceiling, prices)
    settled = scores.bounds[0]
    if chosen is None or any(chosen.counts[n] != counts[n] - settled[n] for n in scores):
        picks = {}
        for name, score in scores.items():
            among = None if scores.among is None else Masks({name: scores.among[name]})
            picks |= select.top({name: score}, counts[name] - settled[name], among)
        chosen = Masks(picks)
    return chosen if scores.settled is None else scores.settled | chosen


def counted(
    scores: Scores,
    keep: int,
    allocate: Allocation,
    floor: int,
    ceiling: float,
    prices: Mapping[str, float] | None,
) -> tuple[dict[str, int], Masks | None]:
    """How many each tensor has alive, `keep` in all, and which they are if the allocation has chosen them on the way."""
    settled, upper = scores.bounds
    lower = {n: min(max(settled[n], floor), upper[n]) for n in scores}
    check_sparsity(ceiling, "ceiling")
    upper = {n: max(lower[n], min(upper[n], int(ceiling * size))) for n, size in scores.sizes.items()}
    wishes = _wishes(scores, keep, allocate, prices)
    return select.apportion(wishes, keep, lower, upper), getattr(wishes, "chosen", None)


def _wishes(scores: Scores, keep: int, allocate: Allocation, prices: Mapping[str, float] | None) -> Wishes:
    """Let an allocation spend what about `keep` weights cost, by trying allowances; the rest is `apportion`'s."""
    if prices is None or len(set(prices.values())) == 1:
        return allocate(scores, dict.fromkeys(scores, 1.0), float(keep))
    settled, upper = scores.bounds
    room = {n: upper[n] - settled[n] for n in scores}
    paid, fresh = sum(prices[n] * k for n, k in settled.items()), keep - sum(settled.values())
    spent = sum(prices[n] * k for n, k in room.items()) * fresh / max(1, sum(room.values()))
    wishes = allocate(scores, prices, paid + spent)
    for _ in range(TRIES):
        got = sum(wishes.values()) - sum(settled.values())
        if abs(got - fresh) <= 0.001 * fresh or got <= 0:
            break
        spent *= fresh / got
        wishes = allocate(scores, prices, paid + spent)
    return wishes


def by_row(keep: int, lower: Tensor, upper: Tensor) -> Tensor:
    """How many each row has alive: as equal as the bounds (rows,) allow, `keep` in all."""
    names = [str(i) for i in range(len(lower))]
    bounds = (dict(zip(names, b.tolist(), strict=True)) for b in (lower, upper))
    counts = select.apportion(dict.fromkeys(names, 1.0), keep, *bounds)
    return torch.tensor([counts[n] for n in names])


def best_of_rows(scores: Tensor, counts: Tensor, among: Tensor) -> Tensor:
    """The best `counts` (rows,) of each row of scores that compete; of equals the first.

    Raises:
        ResproutError: NaN or infinity.
    """
    if not torch.isfinite(scores).all():
        raise ResproutError("the scores hold NaN or infinity; check the weights, the data and the loss")
    counts, scores = counts.to(scores.device), scores.float()
    scores = scores if bool(among.all()) else scores.masked_fill(~among, -torch.inf)
    chosen = torch.zeros_like(among)
    for count in counts.unique().tolist():
        if count:
            rows = counts == count
            chosen[rows] = _first_best(scores[rows], count)
    return chosen


def _first_best(scores: Tensor, count: int) -> Tensor:
    """The best `count` of each row, by its threshold; of those that are equal to it the first."""
    at = scores.shape[1] - count
    if scores.device.type == "cpu":  # ten times as fast as PyTorch's
        least = torch.from_numpy(np.partition(scores.numpy(), at, axis=1)[:, at, None])
    else:
        least = torch.kthvalue(scores, at + 1, dim=1, keepdim=True).values
    chosen = scores >= least
    several = (chosen.sum(1) > count).nonzero().flatten()
    if len(several):
        above, equal = scores[several] > least[several], scores[several] == least[several]
        room = count - above.sum(1, keepdim=True)
        chosen[several] = above | (equal & (equal.cumsum(1) <= room))
    return chosen


class Quota(Pick):
    """Of each run of columns the best, as many as leave every part its share of what it keeps in all.

    Args:
        alive: bool (parts, rows, columns) or (rows, columns), each row a part: what competes.
        counts: int64 (parts,), how many each part keeps.
    """

    def __init__(self, alive: Tensor, counts: Tensor):
        self.alive = alive if alive.dim() == 3 else alive[:, None]
        up_to = self.alive.sum(1).cumsum(1).double()  # (parts, columns)
        total = up_to[:, -1:].clamp(min=1)
        self.up_to = (counts.to(up_to)[:, None] * up_to / total + 0.5).floor().long()

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return what stays of these columns."""
        last = first + scores.shape[1]
        before = self.up_to[:, first - 1] if first else torch.zeros_like(self.up_to[:, 0])
        among = self.alive[:, :, first:last]
        flat = best_of_rows(scores.reshape(among.shape).flatten(1), self.up_to[:, last - 1] - before, among.flatten(1))
        return flat.reshape(scores.shape)


class Pattern(Pick):
    """The best n of every m columns."""

    def __init__(self, alive: Tensor, n: int, m: int):
        self.alive, self.n, self.step = alive, n, m

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return what stays of these columns."""
        among = self.alive[:, first : first + scores.shape[1]].reshape(-1, self.step)
        return best_of_rows(scores.reshape(-1, self.step), torch.full((len(among),), self.n), among).reshape(
            scores.shape
        )
