"""From scores to what stays: exact counts for each tensor, each row, each run of columns; of equals the first."""

from __future__ import annotations

import math
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
    """How many each row has alive: as equal as the bounds, int64 (rows,), allow, `keep` in all; the first have one more.

    It is what `select.apportion` makes of equal wishes, for thousands of rows at once.

    Raises:
        ResproutError: bounds that exclude `keep`.
    """
    if not int(lower.sum()) <= keep <= int(upper.sum()):
        raise ResproutError(
            f"{keep:,} weights cannot be spread over rows that hold between {int(lower.sum()):,} and {int(upper.sum()):,}; "
            "change the sparsity, or use granularity='weight'"
        )

    def level(at: int) -> Tensor:
        return torch.full_like(lower, at).clamp(lower, upper)

    low, high = 0, max(upper.tolist(), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(level(middle).sum()) <= keep else (low, middle - 1)
    counts = level(low)
    more = (level(low + 1) > counts).nonzero().flatten()
    counts[more[: keep - int(counts.sum())]] += 1
    return counts


def best_of_rows(scores: select.Score, counts: Tensor, among: Tensor | None = None) -> Tensor:
    """The best `counts` (rows,) of each row of scores, bool (rows, columns); of equals the first.

    Args:
        scores: (rows, ...), flattened to (rows, columns); computed, ranked and marked a few rows at a time.
        counts: int64 (rows,), at most as many as compete.
        among: bool (rows, columns), these compete; default all.

    Raises:
        ResproutError: NaN or infinity.
    """
    like = scores.sources[0] if isinstance(scores, select.Elementwise) else scores
    rows, columns = len(like), like.shape[1:].numel()
    counts, chosen = counts.to(like.device), torch.zeros(rows, columns, dtype=torch.bool, device=like.device)
    step = max(1, select.CHUNK // max(1, columns)) if like.device.type == "cpu" else max(1, rows)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        piece = select.dense(scores[part]).flatten(1)
        # A finite sum has finite terms, and is much cheaper than a look at each of them.
        if not math.isfinite(float(piece.sum())) and not torch.isfinite(piece).all():
            raise ResproutError("the scores hold NaN or infinity; check the weights, the data and the loss")
        if among is not None:
            piece = piece.masked_fill(~among[part], -torch.inf)
        wanted = counts[part].unique().tolist()
        for count in wanted:
            mine = counts[part] == count
            if count and len(wanted) == 1:
                chosen[part] = _first_best(piece, count)
            elif count:
                chosen[part][mine] = _first_best(piece[mine], count)
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
        self.counts, self.total = counts.to(alive.device), self._alive(0, self.alive.shape[2])
        self.seen, self.last = torch.zeros_like(self.total), 0  # of each part, up to the last column asked for

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return what stays of these columns."""
        if first != self.last:
            self.seen = self._alive(0, first)
        self.last = first + scores.shape[1]
        before, self.seen = self.seen, self.seen + self._alive(first, self.last)
        among = self.alive[:, :, first : self.last]
        wanted = self._up_to(self.seen) - self._up_to(before)
        flat = best_of_rows(scores.reshape(among.shape).flatten(1), wanted, among.flatten(1))
        return flat.reshape(scores.shape)

    def _alive(self, first: int, last: int) -> Tensor:
        return self.alive[:, :, first:last].sum((1, 2))

    def _up_to(self, seen: Tensor) -> Tensor:
        """How many of each part stay when so many of those alive have been asked for."""
        return (self.counts * seen.double() / self.total.clamp(min=1) + 0.5).floor().long()


class Pattern(Pick):
    """The best n of every m columns."""

    def __init__(self, alive: Tensor, n: int, m: int):
        self.alive, self.n, self.step = alive, n, m

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return what stays of these columns."""
        among = self.alive[:, first : first + scores.shape[1]].reshape(-1, self.step)
        counts = torch.full((len(among),), self.n)
        return best_of_rows(scores.reshape(-1, self.step), counts, among).reshape(scores.shape)
