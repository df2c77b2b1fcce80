"""What one prunable unit is. Here: single weights, and n of every m.

A granularity turns scores and an exact count into masks; blocks, channels, heads and layers join here.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import select
from .errors import ResproutError, check_sparsity
from .kinds import Allocation, Scores, Wishes
from .masks import Masks

TRIES = 6  # allowances until about the right number of weights is bought


class Granularity(ABC):
    """What one prunable unit is."""

    @abstractmethod
    def choose(
        self,
        scores: Scores,
        keep: int,
        allocate: Allocation,
        floor: int = 0,
        ceiling: float = 1.0,
        prices: Mapping[str, float] | None = None,
    ) -> Masks:
        """Return masks with exactly `keep` weights alive: the settled ones and the best of those that compete.

        Args:
            scores: see `kinds.Scores`.
            keep: weights alive in all, over all tensors.
            allocate: how many of them each tensor gets.
            floor: weights that each tensor keeps at least (all it has, if it has fewer).
            ceiling: the highest density of a tensor, in [0, 1]; what is settled stays.
            prices: what one weight of each tensor costs; default the same.

        Raises:
            ResproutError: a count that the bounds or the granularity exclude.
        """


@dataclass(frozen=True)
class Weight(Granularity):
    """Every weight by itself (unstructured)."""

    def choose(
        self,
        scores: Scores,
        keep: int,
        allocate: Allocation,
        floor: int = 0,
        ceiling: float = 1.0,
        prices: Mapping[str, float] | None = None,
    ) -> Masks:
        """See `Granularity.choose`."""
        settled, upper = scores.bounds
        lower = {n: min(max(settled[n], floor), upper[n]) for n in scores}
        check_sparsity(ceiling, "ceiling")
        upper = {n: max(lower[n], min(upper[n], int(ceiling * size))) for n, size in scores.sizes.items()}
        wishes = _wishes(scores, keep, allocate, prices)
        counts = select.apportion(wishes, keep, lower, upper)
        chosen = getattr(wishes, "chosen", None)
        if chosen is None or any(chosen.counts[n] != counts[n] - settled[n] for n in scores):
            picks = {}
            for name, score in scores.items():
                among = None if scores.among is None else Masks({name: scores.among[name]})
                picks |= select.top({name: score}, counts[name] - settled[name], among)
            chosen = Masks(picks)
        return chosen if scores.settled is None else scores.settled | chosen


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


@dataclass(frozen=True)
class NM(Granularity):
    """The best n of every m consecutive inputs of each output (NVIDIA's 2:4 is `NM(2, 4)`).

    Inputs are the last dimension of a linear weight and dimension 1 of a convolution's, at each kernel position. The
    pattern fixes the number alive; `allocate` has no say, and regrowth goes from a smaller n to a larger one.
    """

    n: int
    m: int

    def choose(
        self,
        scores: Scores,
        keep: int,
        allocate: Allocation,
        floor: int = 0,
        ceiling: float = 1.0,
        prices: Mapping[str, float] | None = None,
    ) -> Masks:
        """See `Granularity.choose`."""
        exact = sum(scores.sizes.values()) * self.n // self.m
        if keep != exact:
            raise ResproutError(
                f"granularity {self.n}:{self.m} means sparsity {1 - self.n / self.m:g} exactly "
                f"({exact:,} weights alive), got {keep:,}; change sparsity or granularity"
            )
        masks = Masks({name: self._pattern(name, select.dense(score), scores) for name, score in scores.items()})
        if masks.alive != keep:
            raise ResproutError(
                f"the weights alive do not allow exactly {self.n} of every {self.m}: the masks come from another "
                "pattern; start from dense masks"
            )
        return masks

    def _pattern(self, name: str, score: Tensor, scores: Scores) -> Tensor:
        if score.dim() < 2 or score.shape[1] % self.m:
            raise ResproutError(
                f"{name!r} of shape {tuple(score.shape)} has no multiple of {self.m} inputs; add it to ignore=[...]"
            )
        if not torch.isfinite(score).all():
            raise ResproutError(
                f"the scores of {name!r} hold NaN or infinity; check the weights, the data and the loss"
            )
        if scores.among is not None:
            score = score.masked_fill(~scores.among[name], -torch.inf)
        if scores.settled is not None:
            score = score.masked_fill(scores.settled[name], torch.inf)
        groups = score.movedim(1, -1).unflatten(-1, (-1, self.m))
        order = torch.argsort(groups, dim=-1, descending=True, stable=True)
        picks = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., : self.n], True)
        picks = picks.flatten(-2).movedim(-1, 1).contiguous()
        allowed = torch.ones_like(picks) if scores.among is None else scores.among[name]
        return picks & allowed if scores.settled is None else (picks & allowed) | scores.settled[name]


def parse(granularity: "str | Granularity") -> Granularity:
    """Read `"weight"` or `"2:4"`.

    Raises:
        ResproutError: an unknown name or an impossible pattern.
    """
    if isinstance(granularity, Granularity):
        return granularity
    if granularity == "weight":
        return Weight()
    if match := re.fullmatch(r"(\d+):(\d+)", granularity):
        n, m = map(int, match.groups())
        if 0 < n <= m:
            return NM(n, m)
    raise ResproutError(f"unknown granularity {granularity!r}; use 'weight' or n:m with 0 < n <= m, as in '2:4'")
