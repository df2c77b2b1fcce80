"""What one prunable unit is: a weight, a block, n of every m, a channel, a head, a layer.

A granularity turns scores and an exact count into masks. Blocks and coupled units are pooled: each gets one score from those
of its weights, the very same selection runs over these, and what it chooses is spread over the weights again.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from . import select
from .choose import Pattern, Quota, best, best_of_rows, by_row, counted
from .errors import ResproutError
from .kinds import Allocation, Pick, Scores
from .masks import Masks
from .units import Group, Kind, living, spread

LAYERS = "layers"  # as one group


class Granularity(ABC):
    """What one prunable unit is."""

    @property
    def noun(self) -> str:
        """Its units in words."""
        return "weights"

    @abstractmethod
    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """Return which units are alive: name (of a tensor or a group) -> bool of the form of its units."""

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
        """Return masks with exactly `keep` units alive: the settled ones and the best of those that compete.

        Args:
            scores: see `kinds.Scores`.
            keep: units alive in all.
            allocate: how many of them each tensor or group gets.
            floor: units that each keeps at least (all it has, if it has fewer).
            ceiling: the highest density of each, in [0, 1]; what is settled stays.
            prices: what one weight of each tensor costs; default the same.

        Raises:
            ResproutError: a count that the bounds or the granularity exclude.
        """

    def spread(
        self, units: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], groups: Sequence[Group] = ()
    ) -> dict[str, Tensor]:
        """Return a factor for each weight, from one for each unit, differentiable in them. Here a unit is a weight."""
        return dict(units)

    def whole(self, units: Masks, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """Return the weights, in the form of `masks`, of which all units are alive."""
        return Masks(
            {n: f.bool() for n, f in self.spread(units, {n: m.shape for n, m in masks.items()}, groups).items()}
        )

    def pick(self, alive: Tensor, keep: int) -> Pick:
        """Return what chooses, a run of columns at a time, exactly `keep` of the weights `alive` (outputs, columns).

        Raises:
            ResproutError: a granularity that does not go by columns.
        """
        raise ResproutError(f"a solver chooses weights, rows or n:m, and not {self.noun}; use a score for {self.noun}")


@dataclass(frozen=True)
class Weight(Granularity):
    """Every weight by itself (unstructured)."""

    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """The weights."""
        return masks

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
        return best(scores, keep, allocate, floor, ceiling, prices)

    def pick(self, alive: Tensor, keep: int) -> Pick:
        """As many of each run of columns as its share of those alive."""
        return Quota(alive[None], torch.tensor([keep]))


@dataclass(frozen=True)
class Row(Granularity):
    """Every weight by itself, and the same share of each output (row of the weight): those who compete read the same inputs.

    Where the count of a tensor is no multiple of its rows, the first rows keep one more. What lives already in a row beyond
    its share stays, and less than it wishes is taken from rows that have less: others make up for it.
    """

    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """The weights."""
        return masks

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
        counts = counted(scores, keep, allocate, floor, ceiling, prices)[0]
        picks = {}
        for name, score in scores.items():
            rows, columns = score.shape[0], score.shape[1:].numel()
            settled = None if scores.settled is None else scores.settled[name].flatten(1)
            among = None if scores.among is None else scores.among[name].flatten(1)
            have = torch.zeros(rows, dtype=torch.int64) if settled is None else settled.sum(1).cpu()
            most = have + (columns if among is None else among.sum(1).cpu())
            chosen = best_of_rows(score, by_row(counts[name], have, most) - have, among)
            picks[name] = (chosen if settled is None else chosen | settled).reshape(score.shape)
        return Masks(picks)

    def pick(self, alive: Tensor, keep: int) -> Pick:
        """In each row as many of a run of columns as its share of those alive."""
        have = alive.sum(1).cpu()
        return Quota(alive, by_row(keep, torch.zeros_like(have), have))


@dataclass(frozen=True)
class Block(Granularity):
    """Tiles of `rows` outputs by `columns` inputs of one weight, at each kernel position; at the edge they are smaller."""

    rows: int
    columns: int

    @property
    def noun(self) -> str:
        """Blocks."""
        return "blocks"

    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """The tiles with a weight alive."""
        return Masks({n: self._tiles(m.float()) > 0 for n, m in masks.items()})

    def choose(
        self,
        scores: Scores,
        keep: int,
        allocate: Allocation,
        floor: int = 0,
        ceiling: float = 1.0,
        prices: Mapping[str, float] | None = None,
    ) -> Masks:
        """See `Granularity.choose`; a tile's score is the sum over its weights that compete."""
        masks = scores.settled if scores.settled is not None else scores.among
        alive = None if masks is None else self.units(masks)
        pooled = {n: self._tiles(_worth(scores, n)) ** (1 / scores.order) for n in scores}
        grow = scores.settled is not None
        dead = None if alive is None else ~alive
        tiles = Scores(pooled, dead if grow else alive, alive if grow else None, scores.order)
        chosen = best(tiles, keep, allocate, floor, ceiling, prices)
        whole = Masks({n: self._whole(chosen[n], scores.shapes[n]) for n in scores})
        if masks is None or alive is None:
            return whole
        known = Masks({n: self._whole(t, scores.shapes[n]) for n, t in alive.items()})
        return masks | (whole - known) if grow else masks & whole

    def spread(
        self, units: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], groups: Sequence[Group] = ()
    ) -> dict[str, Tensor]:
        """Each weight has the factor of its tile."""
        return {n: self._whole(t, shapes[n]) for n, t in units.items()}

    def _tiles(self, x: Tensor) -> Tensor:
        """Sums over tiles."""
        for dim, size in ((0, self.rows), (1, self.columns)):
            if x.dim() > dim and size > 1:
                short = -x.shape[dim] % size
                x = x.movedim(dim, -1)
                x = torch.nn.functional.pad(x, (0, short)).unflatten(-1, (-1, size)).sum(-1).movedim(-1, dim)
        return x.contiguous()

    def _whole(self, tiles: Tensor, shape: Sequence[int]) -> Tensor:
        for dim, size in ((0, self.rows), (1, self.columns)):
            if tiles.dim() > dim and size > 1:
                tiles = tiles.repeat_interleave(size, dim).narrow(dim, 0, shape[dim])
        return tiles


@dataclass(frozen=True)
class Units(Granularity):
    """Coupled channels, attention heads or whole layers, as a trace of the model has found them (`graph/`).

    "width" is channels and heads side by side. A unit's score is what its weights sum to, wherever they sit (of scores with an
    `order`, the norm of that order); of scores that are one number per output channel, their mean over the weights that make
    the unit. With `normalise` it is divided by the mean of its group, so that narrow and wide layers compare (SPA,
    arXiv:2403.18955). With `priced` a unit's score is divided by what it costs: multiply-adds or microseconds where the budget
    is one of these, else weights.

    Layers are one group, whatever they are called: all allocations rank them together; floor and ceiling are of their number.
    """

    kind: Kind | Literal["width"] = "channel"
    normalise: bool = False
    priced: bool = False

    @property
    def noun(self) -> str:
        """As in "channels"."""
        return "channels and heads" if self.kind == "width" else f"{self.kind}s"

    def _mine(self, groups: Sequence[Group]) -> list[Group]:
        mine = [g for g in groups if g.kind == self.kind or (self.kind == "width" and g.kind != "layer")]
        if not mine:
            raise ResproutError(
                f"granularity {self.kind!r} found no {self.noun} that can leave: pass example= (an input of the model), or look "
                "at `resprout inspect` for what is kept dense, and why"
            )
        return mine

    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """The units with a weight alive."""
        mine = self._mine(groups)
        alive = living(mine, masks)
        return Masks({LAYERS: torch.cat([alive[g.name] for g in mine])} if self.kind == "layer" else alive)

    def least(self, masks: Masks, groups: Sequence[Group]) -> Masks:
        """Return `masks` with one unit left of each group, or no layer."""
        mine = {g.name for g in self._mine(groups)}
        ones = {g.name: torch.ones(len(g), dtype=torch.bool) for g in groups}
        first = {n: torch.arange(len(a)) < (0 if self.kind == "layer" else 1) for n, a in ones.items() if n in mine}
        left = spread(groups, ones | first, {n: m.shape for n, m in masks.items()})
        return masks & Masks({n: m.to(masks[n].device) for n, m in left.items()})

    def choose(
        self,
        scores: Scores,
        keep: int,
        allocate: Allocation,
        floor: int = 0,
        ceiling: float = 1.0,
        prices: Mapping[str, float] | None = None,
    ) -> Masks:
        """See `Granularity.choose`; of units that compete, only the weights that do count."""
        grow = scores.settled is not None
        masks = scores.settled if grow else scores.among
        mine = self._mine(scores.groups)
        whole = Masks({n: torch.ones(shape, dtype=torch.bool) for n, shape in scores.shapes.items()})
        whole = whole if masks is None else masks
        before = living(scores.groups, whole)
        alive = Masks({g.name: before[g.name] for g in mine})
        pooled = self._pool(scores, mine)
        costs = unit_prices(prices or dict.fromkeys(scores, 1.0), mine, scores.shapes) if self.priced else None
        if self.kind == "layer":
            alive, pooled, costs = self.units(whole, mine), _ranked(pooled, costs, scores.order), None
        units = Scores(pooled, ~alive if grow else alive, alive if grow else None, scores.order)
        chosen = best(units, keep, allocate, floor, ceiling, costs)
        if self.kind == "layer":
            chosen = {g.name: a[None] for g, a in zip(mine, chosen[LAYERS], strict=True)}
        returned = before if self.kind != "layer" else {n: a if bool(a.any()) else ~a for n, a in before.items()}
        first = next(iter(scores.values()))
        device = (first.sources[0] if isinstance(first, select.Elementwise) else first).device
        # What died with a layer, all of a group, comes back with it.
        after = spread(scores.groups, returned | dict(chosen), scores.shapes)
        if grow:  # dead weights within units that live stay dead
            known = spread(scores.groups, before, scores.shapes)
            after = {n: after[n] & ~known[n] for n in after}
        new = Masks({n: m.to(device) for n, m in after.items()})
        return new if masks is None else masks | new if grow else masks & new

    def spread(
        self, units: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], groups: Sequence[Group] = ()
    ) -> dict[str, Tensor]:
        """The weights that read a unit (for want of any, those that make it) have its factor: what it puts out is scaled."""
        made: dict[str, Tensor] = {}
        for group, factor in self._each(units, groups):
            slots = [s for s in group.slots if s.parameter in shapes]
            for slot in [s for s in slots if s.dim > 0] or slots:
                shape = shapes[slot.parameter]
                line = factor.new_ones(shape[slot.dim]).index_copy(
                    0, slot.index.flatten().to(factor.device), factor.repeat_interleave(slot.repeat)
                )
                spot = line.reshape([-1 if d == slot.dim else 1 for d in range(len(shape))])
                made[slot.parameter] = made.get(slot.parameter, 1) * spot
        return {n: f.expand(tuple(shapes[n])) for n, f in made.items()}

    def whole(self, units: Masks, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """All that a dead unit has, wherever it sits, is dead."""
        alive = {g.name: torch.ones(len(g), dtype=torch.bool) for g in groups}
        alive |= {g.name: a for g, a in self._each(units, groups)}
        found = spread(groups, alive, {n: m.shape for n, m in masks.items()})
        return Masks({n: m.to(masks[n].device) for n, m in found.items()})

    def _each(self, units: Mapping[str, Tensor], groups: Sequence[Group]) -> list[tuple[Group, Tensor]]:
        mine = self._mine(groups)
        if self.kind == "layer":
            return [(g, a[None]) for g, a in zip(mine, units[LAYERS], strict=True)]
        return [(g, units[g.name]) for g in mine]

    def _pool(self, scores: Scores, groups: Sequence[Group]) -> dict[str, Tensor]:
        """The units' scores, float32 of shape (units,)."""
        lines: dict[tuple[str, int], Tensor] = {}
        pooled = {}
        for group in groups:
            slots = [s for s in group.slots if s.parameter in scores]
            whole = not scores.rows or group.kind == "layer"  # a layer has all rows of its weights
            made = slots if whole else [s for s in slots if (s.parameter, s.dim) in scores.makes]
            if not made:
                raise ResproutError(
                    f"no prunable weight makes the units of {group.name!r}, so a score of output channels knows nothing of them: "
                    "name it in targets=[...], or use a score of weights such as 'magnitude'"
                )
            total = torch.zeros(len(group), dtype=torch.float64)
            for slot in made:
                at = slot.parameter, slot.dim
                if at not in lines:
                    table = (
                        select.dense(scores[slot.parameter]) if scores.rows else _worth(scores, slot.parameter)
                    ).double()
                    flat = table.movedim(slot.dim, 0).flatten(1)
                    lines[at] = (flat.mean(1) if scores.rows else flat.sum(1)).cpu()
                found = lines[at][slot.index]
                total += found.mean(1) / len(made) if scores.rows else found.sum(1)
            total = total if scores.rows else total.sign() * total.abs() ** (1 / scores.order)
            scale = float(total.abs().mean()) if self.normalise and self.kind != "layer" else 1.0
            pooled[group.name] = (total / (scale or 1.0)).float()
        return pooled


def _ranked(pooled: Mapping[str, Tensor], prices: Mapping[str, float] | None, order: int) -> dict[str, Tensor]:
    """The scores of all layers side by side, per price where there are prices."""
    prices = dict.fromkeys(pooled, 1.0) if prices is None else prices
    mean = sum(prices.values()) / len(prices)
    return {LAYERS: torch.cat([score / (prices[n] / mean) ** (1 / order) for n, score in pooled.items()])}


def _worth(scores: Scores, name: str) -> Tensor:
    """What each weight is worth in a sum: its score to the order, zero where it neither lives nor competes."""
    score = select.dense(scores[name])
    worth = score if scores.order == 1 else score.abs() ** scores.order
    if not torch.isfinite(worth).all():
        raise ResproutError(f"the scores of {name!r} hold NaN or infinity; check the weights, the data and the loss")
    return worth if scores.among is None else worth * scores.among[name]


def unit_prices(
    prices: Mapping[str, float], groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """What one unit of each group costs, by its weights."""
    found = {}
    for group in groups:
        slots = [s for s in group.slots if s.parameter in prices]
        each = (
            prices[s.parameter] * s.repeat * math.prod(shapes[s.parameter]) / shapes[s.parameter][s.dim] for s in slots
        )
        found[group.name] = max(sum(each), 1e-9)
    return found


@dataclass(frozen=True)
class NM(Granularity):
    """The best n of every m consecutive inputs of each output (NVIDIA's 2:4 is `NM(2, 4)`).

    Inputs are the last dimension of a linear weight and dimension 1 of a convolution's, at each kernel position. The
    pattern fixes the number alive; `allocate` has no say, and regrowth goes from a smaller n to a larger one.
    """

    n: int
    m: int

    def units(self, masks: Masks, groups: Sequence[Group] = ()) -> Masks:
        """The weights."""
        return masks

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

    def pick(self, alive: Tensor, keep: int) -> Pick:
        """The best n of every m columns.

        Raises:
            ResproutError: columns that are no multiple of m, or a count that is not the pattern's.
        """
        if alive.shape[1] % self.m or keep != alive.numel() * self.n // self.m:
            raise ResproutError(f"{self.n}:{self.m} of a weight of {tuple(alive.shape)} does not leave {keep:,}")
        return Pattern(alive, self.n, self.m)

    def _pattern(self, name: str, score: Tensor, scores: Scores) -> Tensor:
        if score.dim() < 2 or score.shape[1] % self.m:
            raise ResproutError(
                f"{name!r} of shape {tuple(score.shape)} has no multiple of {self.m} inputs; add it to ignore=[...]"
            )
        if not torch.isfinite(score).all():
            raise ResproutError(
                f"the scores of {name!r} hold NaN or infinity; check the weights, the data and the loss"
            )
        among = torch.ones_like(score, dtype=torch.bool) if scores.among is None else scores.among[name]
        settled = torch.zeros_like(among) if scores.settled is None else scores.settled[name]
        flat, may, have = (t.movedim(1, -1).reshape(-1, self.m) for t in (score, among, settled))
        room = torch.minimum((self.n - have.sum(1)).clamp(min=0), may.sum(1))
        picks = best_of_rows(flat, room, may).reshape(score.movedim(1, -1).shape)
        return picks.movedim(-1, 1).contiguous() | settled


def parse(granularity: "str | Granularity") -> Granularity:
    """Read `"weight"`, `"row"`, `"channel"`, `"head"`, `"width"`, `"layer"` (priced), `"2:4"` or `"block:4x1"`.

    Raises:
        ResproutError: an unknown name or an impossible pattern.
    """
    if isinstance(granularity, Granularity):
        return granularity
    if granularity in ("weight", "row"):
        return Weight() if granularity == "weight" else Row()
    for kind in (*get_args(Kind), "width"):
        if granularity == kind:
            return Units(
                kind, priced=kind == "layer"
            )  # which are of unlike size, so that all of the small ones would leave
    if match := re.fullmatch(r"(\d+):(\d+)", granularity):
        n, m = map(int, match.groups())
        if 0 < n <= m:
            return NM(n, m)
    if match := re.fullmatch(r"block:(\d+)x(\d+)", granularity):
        rows, columns = map(int, match.groups())
        if min(rows, columns) > 0:
            return Block(rows, columns)
    raise ResproutError(
        f"unknown granularity {granularity!r}; use 'weight', 'row', 'channel', 'head', 'width' (both), 'layer', n:m with "
        "0 < n <= m as in '2:4', or blocks of outputs by inputs as in 'block:4x1'"
    )
