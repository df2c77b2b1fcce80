"""The only place that ranks, counts, rounds and breaks ties.

`top` keeps exactly k of N over many tensors by counting, in constant extra memory: a sample brackets the k-th
largest score, one pass marks what lies above the bracket's lower end and collects the few scores inside it, a radix
count over those finds the score itself, and the marks of those below it are taken back. Where too many scores lie in
the bracket to be collected (ties), they are counted, and the masks written, by reading again. What
ranks of a process group exchange are counts alone, so sharded tensors (DTensor) give the masks of one process.

What this file does not do: score, allocate, or touch a model.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import ResproutError
from .masks import Masks

CHUNK = 1 << 18  # scores read at a time: 1 MiB of float32 stays in the cache
SAMPLE = 1 << 17  # scores in the first look
BINS = 1 << 11  # bins of one radix pass
_MIN, _MAX = -0x7F800000, 0x7F7FFFFF  # keys of the lowest and the highest finite float32
_EVERYWHERE = 1 << 62  # a position beyond every tensor


@dataclass(frozen=True)
class Elementwise:
    """A score that is computed where it is read: `fn` of the same piece of every source, never held whole.

    `fn` takes flat tensors of equal length and returns a new one; sources share one shape.
    """

    fn: Callable[..., Tensor]
    sources: tuple[Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of the scores."""
        return self.sources[0].shape

    def numel(self) -> int:
        """How many scores there are."""
        return self.sources[0].numel()

    def tensor(self) -> Tensor:
        """Return the scores as one tensor."""
        return self.fn(*(s.reshape(-1) for s in self.sources)).view(self.shape)

    def __getitem__(self, rows: slice) -> "Elementwise":
        """Return the scores of some rows (the first dimension); nothing is computed."""
        return Elementwise(self.fn, tuple(s[rows] for s in self.sources))


Score = Tensor | Elementwise
Reduce = Callable[[Tensor], Tensor]


def dense(score: Score) -> Tensor:
    """Return `score` as a float32 tensor."""
    return (score.tensor() if isinstance(score, Elementwise) else score).float()


def _keys(x: Tensor) -> Tensor:
    """Map float32 to int32 so that the order is the same (-0.0 equals 0.0)."""
    bits = (x + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(key: int) -> float:
    """The float32 of an order-preserving key."""
    bits = torch.tensor([key], dtype=torch.int32)
    return float((bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)[0])


class _Stream:
    """One tensor's (or shard's) scores, read flat, piece by piece, as float32; those not competing read as -inf."""

    def __init__(self, name: str, score: Score, among: Tensor | None):
        self.name = name
        sources = score.sources if isinstance(score, Elementwise) else (score,)
        self.fn = score.fn if isinstance(score, Elementwise) else None
        self.like = sources[0]
        self.sharded = hasattr(self.like, "to_local")
        local = [s.to_local() if hasattr(s, "to_local") else s for s in sources]  # pyright: ignore
        self.shape = local[0].shape
        self.flat = [s.detach().reshape(-1) for s in local]
        mask = among.to_local() if hasattr(among, "to_local") else among  # pyright: ignore
        self.among = None if mask is None else mask.reshape(-1)
        self.size = self.flat[0].numel()
        self.candidates = self.size if self.among is None else int(torch.count_nonzero(self.among))

    def read(self, where: slice, check: bool = False) -> Tensor:
        pieces = [s[where] for s in self.flat]
        x = (self.fn(*pieces) if self.fn else pieces[0]).float()
        # A finite sum has finite terms, and is much cheaper than a look at each of them.
        if check and not math.isfinite(float(x.sum())):
            self._check(x if self.among is None else x[self.among[where]])
        return x if self.among is None else torch.where(self.among[where], x, -math.inf)

    def sample(self, stride: int) -> Tensor:
        x = self.read(slice(None, None, stride))
        return x if self.among is None else x[self.among[::stride]]

    def chunks(self, check: bool = False) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, self.size, CHUNK):
            yield start, self.read(slice(start, start + CHUNK), check)

    def positions(self, flat: Tensor) -> Tensor:
        """Positions in the whole tensor of flat positions in this shard."""
        if not self.sharded:
            return flat
        dim, offset = _shard(self.like)
        index = list(torch.unravel_index(flat, self.shape))
        index[dim] = index[dim] + offset
        whole, out = self.like.shape, torch.zeros_like(flat)
        for i, n in zip(index, whole, strict=True):
            out = out * n + i
        return out

    def _check(self, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise ResproutError(
                f"the scores of {self.name!r} hold NaN or infinity; check the weights, the data and the loss"
            )

    def wrap(self, mask: Tensor) -> Tensor:
        """Give a local mask the form of the scores: a plain tensor, or a DTensor of the same sharding."""
        mask = mask.view(self.shape)
        if not self.sharded:
            return mask
        from torch.distributed.tensor import DTensor

        like = self.like
        assert isinstance(like, DTensor)
        return DTensor.from_local(
            mask, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
        )


def _shard(tensor: Tensor) -> tuple[int, int]:
    """The sharded dimension of a DTensor on a 1-D mesh and this rank's offset in it."""
    mesh, placements = tensor.device_mesh, tensor.placements  # pyright: ignore[reportAttributeAccessIssue]
    if len(placements) != 1 or not placements[0].is_shard():
        raise ResproutError(f"selection needs DTensors sharded over a 1-D mesh, got placements {placements}")
    dim = placements[0].dim % tensor.dim()
    per_rank = -(-tensor.shape[dim] // mesh.size())
    return dim, min(mesh.get_local_rank() * per_rank, tensor.shape[dim])


def _reducer(streams: list[_Stream]) -> Reduce:
    sharded = [s for s in streams if s.sharded]
    if not sharded:
        return lambda counts: counts
    if len(sharded) != len(streams):
        odd = next(s.name for s in streams if not s.sharded)
        raise ResproutError(f"{odd!r} is not sharded while others are; shard all prunable tensors or none")
    group = sharded[0].like.device_mesh.get_group()  # pyright: ignore[reportAttributeAccessIssue]
    device = sharded[0].flat[0].device

    def reduce(counts: Tensor) -> Tensor:
        counts = counts.to(device)
        dist.all_reduce(counts, group=group)
        return counts.cpu()

    return reduce


def _threshold(
    pieces: Callable[[], Iterator[tuple[int, Tensor]]],
    price: Tensor,
    allowance: float,
    low: int,
    high: int,
    reduce: Reduce,
) -> tuple[int, Tensor, Tensor]:
    """Find by radix counts the integer in [low, high] at which `allowance` runs out, paying from the largest down.

    Args:
        pieces: gives (number of the tensor, integers), in any order.
        price: of one weight of each tensor, float64.
        allowance: what may be spent.
        low, high: where the integer is.
        reduce: adds up what the ranks count.

    Returns:
        the integer, and for each tensor how many are larger and how many equal it.
    """
    larger = torch.zeros(len(price), dtype=torch.int64)
    while True:
        width = -(-(high - low + 1) // BINS)
        counts = torch.zeros(len(price), BINS, dtype=torch.int64)
        for i, keys in pieces():
            keys = keys.long()
            inside = keys[(keys >= low) & (keys <= high)]
            counts[i] += torch.bincount((inside - low) // width, minlength=BINS).cpu()
        counts = reduce(
            counts
        )  # whole numbers of each tensor: money is counted afterwards, so every rank gets the same
        from_top = (price @ counts.double()).flip(0).cumsum(0)
        b = min(int(torch.searchsorted(from_top, _up_to(allowance) - float(price @ larger.double()))), BINS - 1)
        here = BINS - 1 - b
        larger += counts[:, here + 1 :].sum(1)
        low, high = low + here * width, min(high, low + (here + 1) * width - 1)
        if width == 1:
            return low, larger, counts[:, here]


def _up_to(allowance: float) -> float:
    """A little less, so that sums of prices that only rounding tells from it count as it."""
    return allowance - 1e-9 * abs(allowance)


def _bracket(streams: list[_Stream], price: Tensor, share: float, reduce: Reduce) -> tuple[int, int]:
    """Two keys that almost surely enclose the one at which `share` of all the money is spent, from a strided sample."""
    total = int(reduce(torch.tensor([sum(s.candidates for s in streams)]))[0])
    if total <= SAMPLE:
        return _MIN, _MAX
    stride = max(1, total // SAMPLE) | 1
    costs = torch.zeros(1 << 16, dtype=torch.float64)
    for s, p in zip(streams, price, strict=True):
        costs += p * torch.bincount((_keys(s.sample(stride)).long() >> 16) + (1 << 15), minlength=1 << 16).cpu()
    from_top = reduce(costs).flip(0).cumsum(0)
    n, dearest = float(from_top[-1]), float(price.max())
    spent = share * n
    margin = 4 * math.sqrt(dearest * spent * max(0.0, 1 - share)) + 4 * dearest if stride > 1 else 0
    top_bin, low_bin = (
        (1 << 16) - 1 - int(torch.searchsorted(from_top, max(float(price.min()), cost)).clamp(max=(1 << 16) - 1))
        for cost in (spent - margin, spent + margin)
    )
    low = _MIN if spent + margin >= n else (low_bin - (1 << 15)) << 16
    high = _MAX if spent - margin < dearest else ((top_bin - (1 << 15) + 1) << 16) - 1
    return max(low, _MIN), min(high, _MAX)


@dataclass
class _Sweep:
    """One pass over a stream: its mask of scores >= `bottom`, and those scores up to `ceiling` with their positions.

    The scores are given up (`crowded`) as soon as they are too many to be held.
    """

    mask: Tensor
    above: int = 0
    crowded: bool = False

    def __post_init__(self) -> None:
        self.inside: list[tuple[Tensor, Tensor]] = []
        self.count = 0

    def run(self, stream: _Stream, bottom: float, ceiling: float, cap: int) -> None:
        size, device = min(CHUNK, stream.size), self.mask.device
        # Comparisons into float32 and copies to bool run on vectors; comparisons into bool do not.
        least, over = torch.empty(size, device=device), torch.empty(size, device=device)
        between = torch.empty(size, dtype=torch.bool, device=device)
        for start, x in stream.chunks(check=True):
            least, over, between = least[: len(x)], over[: len(x)], between[: len(x)]
            self.mask[start : start + CHUNK].copy_(torch.ge(x, bottom, out=least))
            marked = int(least.sum())
            between.copy_(least.sub_(torch.gt(x, ceiling, out=over)))
            if self.crowded:
                found = int(torch.count_nonzero(between))
            else:
                places = _places(between)
                found = len(places)
                self.inside.append((places + start, x[places]))
            self.count += found
            self.above += marked - found
            if self.count > cap:
                self.crowded, self.inside = True, []
        if self.inside:
            self.inside = [(torch.cat([p for p, _ in self.inside]), torch.cat([x for _, x in self.inside]))]


def _places(mask: Tensor) -> Tensor:
    """Return the positions of the few True in a mask; empty words of eight are passed over."""
    if len(mask) % 8:
        return mask.nonzero().flatten()
    words = mask.view(torch.int64).nonzero()
    near = (words * 8 + torch.arange(8, device=mask.device)).flatten()
    return near[mask[near]]


def _limits(
    streams: list[_Stream], ties: Callable[[int], Iterator[Tensor]], found: list[int], taken: list[int], reduce: Reduce
) -> list[int]:
    """For each tensor the last position up to which a tie is kept, if `taken` of the `found` ones are."""
    limits = []
    for i, (s, count, take) in enumerate(zip(streams, found, taken, strict=True)):
        if take >= count:
            limits.append(_EVERYWHERE)
        elif take == 0:
            limits.append(-1)
        else:

            def pieces(i: int = i, s: _Stream = s) -> Iterator[tuple[int, Tensor]]:
                return ((0, -s.positions(flat)) for flat in ties(i))

            limits.append(-_threshold(pieces, torch.ones(1).double(), take, -s.like.numel(), 0, reduce)[0])
    return limits


def _pay(price: Tensor, ties: Tensor, left: float) -> list[int]:
    """How many of each tensor's ties `left` pays for: earlier tensors first, and none after the first unpaid one."""
    taken = [0] * len(ties)
    for i, (p, count) in enumerate(zip(price.tolist(), ties.tolist(), strict=True)):
        taken[i] = max(0, min(count, int(left / p + 1e-6)))
        left -= p * taken[i]
        if taken[i] < count:
            break
    return taken


@torch.no_grad()
def top(scores: Mapping[str, Score], keep: int, among: Masks | None = None) -> Masks:
    """Mark exactly the `keep` largest scores over all tensors; of equal ones the earlier (tensor, then position).

    Args:
        scores: name -> scores of any float type (ranked as float32), as tensors, DTensors or `Elementwise`.
        keep: how many to mark.
        among: only these compete; default all.

    Raises:
        ResproutError: a NaN or infinite score, or fewer candidates than `keep`.
    """
    streams = [_Stream(n, s, None if among is None else among[n]) for n, s in scores.items()]
    total = int(_reducer(streams)(torch.tensor([sum(s.candidates for s in streams)]))[0])
    if not 0 <= keep <= total:
        raise ResproutError(f"cannot keep {keep:,} of {total:,} candidates")
    return _best(streams, torch.ones(len(streams), dtype=torch.float64), keep)


def _best(streams: list[_Stream], price: Tensor, allowance: float) -> Masks:
    """Mark the largest scores for as long as `allowance` pays for them, `price` for one of each tensor."""
    reduce = _reducer(streams)
    everything = float(price @ reduce(torch.tensor([s.candidates for s in streams])).double())
    allowance = min(allowance, everything)
    if allowance < float(price.min() if len(price) else 1) * (1 - 1e-6):
        return Masks({s.name: s.wrap(torch.zeros(s.size, dtype=torch.bool, device=s.flat[0].device)) for s in streams})
    low, high = _bracket(streams, price, allowance / everything, reduce)
    sweeps = [_Sweep(torch.empty(s.size, dtype=torch.bool, device=s.flat[0].device)) for s in streams]
    cap = max(SAMPLE * 4, sum(s.size for s in streams) // 16)
    for s, sweep in zip(streams, sweeps, strict=True):
        sweep.run(s, _value(low), _value(high), cap)
        cap = -1 if sweep.crowded else cap - sweep.count
    facts = [[w.above for w in sweeps], [w.count for w in sweeps], [w.crowded for w in sweeps]]
    above, inside, crowded = reduce(torch.tensor(facts, dtype=torch.int64))  # so that every rank takes the same way
    held = float(price @ above.double()) < _up_to(allowance) <= float(price @ (above + inside).double())
    again = bool(crowded.any()) or not held
    if not held:  # the sample misled: look everywhere
        low, high, above = _MIN, _MAX, torch.zeros_like(above)

    def scores_of(i: int) -> Iterator[tuple[int | Tensor, Tensor]]:
        return streams[i].chunks() if again else iter(sweeps[i].inside)

    def keys() -> Iterator[tuple[int, Tensor]]:
        return ((i, _keys(x)) for i in range(len(streams)) for _, x in scores_of(i))

    left = allowance - float(price @ above.double())
    key, larger, ties = _threshold(keys, price, left, low, high, reduce)
    t, taken = _value(key), _pay(price, ties, left - float(price @ larger.double()))

    def tied(i: int) -> Iterator[Tensor]:
        for where, x in scores_of(i):
            flat = torch.nonzero(x == t).flatten()
            yield flat + where if isinstance(where, int) else where[flat]

    limits = _limits(streams, tied, ties.tolist(), taken, reduce)
    for i, (s, sweep) in enumerate(zip(streams, sweeps, strict=True)):
        for where, x in scores_of(i):
            if isinstance(where, int):
                torch.ge(x, t, out=sweep.mask[where : where + CHUNK])
            else:
                sweep.mask[where[x < t]] = False
        if limits[i] < _EVERYWHERE:
            for flat in tied(i):
                sweep.mask[flat] = s.positions(flat) <= limits[i]
    return Masks({s.name: s.wrap(w.mask) for s, w in zip(streams, sweeps, strict=True)})


class Picks(dict[str, float]):
    """Wishes that one ranking over all tensors makes; `chosen` are the very weights, so that none is ranked twice."""

    chosen: Masks


@torch.no_grad()
def greedy(
    scores: Mapping[str, Score],
    prices: Mapping[str, float],
    allowance: float,
    among: Masks | None = None,
    settled: Mapping[str, int] | None = None,
    order: int = 1,
) -> Picks:
    """Rank all competing weights together by score ** order per price, and take the best that `allowance` pays for.

    Returns:
        name -> weights alive: the settled ones, which are paid first, and those taken.
    """
    settled = dict.fromkeys(scores, 0) | dict(settled or {})
    left = allowance - sum(prices[n] * settled[n] for n in scores)
    if len(set(prices.values())) == 1:
        candidates = sum(s.numel() for s in scores.values()) if among is None else among.alive
        keep = min(int(left / next(iter(prices.values())) + 1e-6), candidates)
        chosen = top(scores, max(0, keep), among)
    else:
        worth = {n: _per(s, order, prices[n]) for n, s in scores.items()}
        streams = [_Stream(n, s, None if among is None else among[n]) for n, s in worth.items()]
        chosen = _best(streams, torch.tensor([prices[n] for n in scores], dtype=torch.float64), max(0.0, left))
    picks = Picks({n: settled[n] + k for n, k in chosen.counts.items()})
    picks.chosen = chosen
    return picks


def _per(score: Score, order: int, price: float) -> Elementwise:
    """A power of a score per price."""
    if isinstance(score, Elementwise):
        return Elementwise(lambda *pieces: score.fn(*pieces).float().pow_(order).div_(price), score.sources)
    return Elementwise(lambda x: x.float().pow(order).div_(price), (score,))


def level(
    claims: Mapping[str, float],
    total: float,
    lower: Mapping[str, float],
    upper: Mapping[str, float],
    prices: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the claims times one factor, held within the bounds, so that at their prices they cost `total`.

    What no factor can place, because nothing claims the room that is left, is spread in proportion to that room.
    """
    price = dict.fromkeys(claims, 1.0) if prices is None else prices

    def spread(factor: float) -> dict[str, float]:
        return {n: min(max(factor * c, lower[n]), upper[n]) for n, c in claims.items()}

    def cost(counts: Mapping[str, float]) -> float:
        return sum(price[n] * k for n, k in counts.items())

    low, high = 0.0, 1.0
    if abs(cost(spread(1.0)) - total) > 1e-6:
        while cost(spread(high)) < total and high < 1e30:
            high *= 2
        for _ in range(200):
            middle = (low + high) / 2
            if cost(spread(middle)) < total:
                low = middle
            else:
                high = middle
    real = spread(high)
    room = {n: upper[n] - k for n, k in real.items()}
    if (short := total - cost(real)) > 0.5 and (space := cost(room)) > 0:
        real = {n: k + min(1.0, short / space) * room[n] for n, k in real.items()}
    return real


def apportion(
    wishes: Mapping[str, float], total: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """Turn wishes into whole counts of sum `total`: the wishes times one factor, held within the bounds (see `level`).

    Counts are rounded by largest remainder, of equal ones the earlier. Wishes that already sum to `total` within the
    bounds are kept as they are, up to that rounding.

    Raises:
        ResproutError: a wish that is negative or not finite, or bounds that exclude `total`.
    """
    for name, wish in wishes.items():
        if not math.isfinite(wish) or wish < 0:
            raise ResproutError(f"the wish for {name!r} is {wish}; wishes are finite and not negative")
    if not sum(lower.values()) <= total <= sum(upper.values()):
        raise ResproutError(
            f"{total:,} weights cannot be spread: the tensors hold between {sum(lower.values()):,} and "
            f"{sum(upper.values()):,}; change floor, ceiling or sparsity"
        )
    real = level(wishes, total, lower, upper)
    counts = {n: math.floor(r + 1e-9) for n, r in real.items()}
    order = sorted(counts, key=lambda n: counts[n] - real[n])
    while (left := total - sum(counts.values())) > 0:
        for name in [n for n in order if counts[n] < upper[n]][:left]:
            counts[name] += 1
    return counts
