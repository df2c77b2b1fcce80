"""Orders in which given subsets are contiguous.

Fulkerson, Gross: "Incidence matrices and interval graphs", Pacific Journal of Mathematics 1965: sets that overlap without
one containing the other fix each other's place but for a reversal, and everything else nests in the blocks between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

Units = frozenset[int]
EXACT = 6  # of so few sets the best part is found by trying all


def consecutive(sets: Sequence[Units], count: int) -> list[int] | None:
    """Return an order of range(count) in which every set is contiguous, or None if there is none.

    Ties go to the smaller number, so that without need nothing moves.
    """
    rows = []
    for part in _overlapping([s for s in dict.fromkeys(sets) if 1 < len(s) < count]):
        blocks = _row(part)
        if blocks is None:
            return None
        rows.append((blocks, len(part)))
    # The larger first, so that each finds the block it nests in; of two that are equal a single set is the outer one.
    rows.sort(key=lambda row: (-sum(map(len, row[0])), row[1]))
    root = _Node(frozenset(range(count)))
    for blocks, _ in rows:
        root.nest(blocks)
    return root.order()


def arrange(sets: Sequence[Units], count: int) -> list[int]:
    """Return an order of range(count) in which sets of the greatest weight are contiguous: their sizes, summed.

    If all can be, all are. Of at most `EXACT` sets the best part is chosen, of more each in turn, the heaviest first.
    """
    weight = Counter({s: len(s) * n for s, n in Counter(sets).items() if 1 < len(s) < count})
    heaviest = sorted(weight, key=lambda s: (-weight[s], sorted(s)))
    if (order := consecutive(heaviest, count)) is not None:
        return order
    if len(heaviest) <= EXACT:
        parts = [p for k in range(len(heaviest)) for p in combinations(heaviest, k)]
        for part in sorted(parts, key=lambda p: -sum(weight[s] for s in p)):
            if (order := consecutive(part, count)) is not None:
                return order
    kept: list[Units] = []
    best = list(range(count))
    for one in heaviest:
        if (order := consecutive([*kept, one], count)) is not None:
            kept, best = [*kept, one], order
    return best


def _overlapping(sets: list[Units]) -> list[list[Units]]:
    """Return the connected parts of "overlap, and neither contains the other", each in an order in which it is connected."""
    left, parts = dict.fromkeys(sets), []
    while left:
        part = [next(iter(left))]
        del left[part[0]]
        for one in part:  # grows meanwhile
            near = [s for s in left if s & one and not s <= one and not one <= s]
            part += near
            for s in near:
                del left[s]
        parts.append(part)
    return parts


def _row(part: list[Units]) -> list[Units] | None:
    """Return the blocks of a connected part in their order: every set is a run of them; None if that cannot be."""
    blocks: list[Units] | None = [part[0]]
    for one in part[1:]:
        blocks = _place(blocks, one)
        if blocks is None:
            return None
    return blocks


def _place(blocks: list[Units], one: Units) -> list[Units] | None:
    """Split blocks, and add one at an end, so that `one`, which overlaps a run of them, is a run too."""
    fresh = one.difference(*blocks)
    if fresh and not _runs_to_the_end(blocks, one):
        blocks = blocks[::-1]
        if not _runs_to_the_end(blocks, one):
            return None
    hit = [i for i, block in enumerate(blocks) if block & one]
    first, last = hit[0], hit[-1]
    if hit != list(range(first, last + 1)) or any(not blocks[i] <= one for i in hit[1:-1]):
        return None
    start = [blocks[first] - one, blocks[first] & one]
    if fresh:
        return [*blocks[:first], *filter(None, start), *blocks[first + 1 :], fresh]
    end = [blocks[last] & one, blocks[last] - one]  # another block than the first: no earlier set contains `one`
    return [*blocks[:first], *filter(None, start), *blocks[first + 1 : last], *filter(None, end), *blocks[last + 1 :]]


def _runs_to_the_end(blocks: list[Units], one: Units) -> bool:
    """Whether `one` has part of a block, and all of those behind it."""
    first = next(i for i, block in enumerate(blocks) if block & one)
    return all(block <= one for block in blocks[first + 1 :])


class _Node:
    """A block, and what nests in it: rows of blocks, beside each other."""

    def __init__(self, units: Units):
        self.units = units
        self.rows: list[list[_Node]] = []

    def nest(self, blocks: list[Units]) -> None:
        """Put a row into the smallest block that holds it."""
        inner = (node for row in self.rows for node in row if node.units >= frozenset().union(*blocks))
        node = next(inner, None)
        if node is None:
            self.rows.append([_Node(b) for b in blocks])
        else:
            node.nest(blocks)

    def order(self) -> list[int]:
        """Return the units, each row as near to ascending as it can be."""
        runs = [[i for node in row for i in node.order()] for row in self.rows]
        free = self.units.difference(*runs)
        runs = [run if run[0] <= run[-1] else self._reversed(row) for run, row in zip(runs, self.rows, strict=True)]
        return [i for run in sorted([*runs, *([i] for i in free)], key=min) for i in run]

    @staticmethod
    def _reversed(row: list[_Node]) -> list[int]:
        return [i for node in reversed(row) for i in node.order()]
