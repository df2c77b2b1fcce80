"""Where every value of a `Program` lies in one block of memory, and how large that block must be.

The operations run in order, one at a time. A value takes its place from the operation that writes it to the last one
that reads it. Flatten is only another name for its operand; activation, scale, add and softmax overwrite an operand
that nobody reads afterwards; all others need operand and result side by side.

On a microcontroller the input and the output lie in the caller's buffers (which must not overlap), so they take no
place here unless asked for; an operand of the last operation may lie in the output's buffer.

What this file does not do: change the order of operations, or split one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .program import Activation, Add, Flatten, Op, Program, Scale, Softmax

INPUT, OUTPUT = -1, -2  # in place of an offset: the caller's buffers
TRIES = 20_000  # of the search: places that it may look for


@dataclass(frozen=True)
class Plan:
    """A plan in elements; times 4 bytes for float32.

    Attributes:
        offsets: where each value begins in the arena, or `INPUT` or `OUTPUT`. Where operand and result of an operation
            begin at the same place it works in place; a Flatten then does nothing, and copies otherwise.
        size: of the arena.
        bound: the most elements that are in use at once, which no plan can go below.
    """

    offsets: tuple[int, ...]
    size: int
    bound: int


@dataclass(frozen=True)
class Block:
    """A place that is taken from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Block) -> bool:
        """Whether both are taken at some step."""
        return self.first <= other.last and other.first <= self.last


def plan(program: Program, inside: bool = False) -> Plan:
    """Place the values; the size is the bound itself whenever the search finds that.

    Args:
        program: the operations.
        inside: the input and the output lie in the arena too, which takes less memory in all where the caller can
            write the input there. The input is overwritten.
    """
    shared = _share(program, inside)
    shapes, end = program.shapes, len(program.ops)
    outside = {} if inside else {shared[end]: OUTPUT, shared[0]: INPUT}
    used = [[v] for v in range(end + 1)]
    for k, op in enumerate(program.ops, 1):
        for i in op.inputs:
            used[i].append(k)
    used[end].append(end)
    steps: dict[int, list[int]] = {}
    for value, root in enumerate(shared):
        if root not in outside:
            steps.setdefault(root, []).extend(used[value])
    blocks = {r: Block(math.prod(shapes[r]), min(s), max(s)) for r, s in steps.items()}
    bound = max((sum(b.size for b in blocks.values() if b.first <= k <= b.last) for k in range(end + 1)), default=0)
    found = place(list(blocks.values()), bound)
    at = outside | dict(zip(blocks, found, strict=True))
    offsets = [at[root] for root in shared]
    if end and not inside:
        offsets[end] = OUTPUT  # also where it is only another name for the input
    return Plan(tuple(offsets), max((at[r] + b.size for r, b in blocks.items()), default=0), bound)


def _share(program: Program, inside: bool) -> list[int]:
    """For each value the first value that lies at its place."""
    alias = [0]
    for k, op in enumerate(program.ops, 1):
        alias.append(alias[op.inputs[0]] if isinstance(op, Flatten) else k)
    last = [0] * len(alias)
    for k, op in enumerate(program.ops, 1):
        for i in op.inputs:
            last[alias[i]] = k
    shared: list[int] = []
    for k in range(len(alias)):
        root = k
        if alias[k] != k:
            root = shared[alias[k]]
        elif k and (onto := _onto(program.ops[k - 1])):
            dying = [shared[i] for i in onto if last[alias[i]] == k and (inside or shared[i] != 0)]
            root = dying[0] if dying else k
        shared.append(root)
    return shared


def _onto(op: Op) -> tuple[int, ...]:
    """The operands that the result may overwrite; an operation that is not in the table knows itself."""
    return op.inputs if isinstance(op, Activation | Scale | Add | Softmax) else getattr(op, "onto", ())


def place(blocks: Sequence[Block], bound: int) -> list[int]:
    """Return an offset for each block, so that none that meet overlap: first greedily, then by search.

    Laying blocks at the lowest free place reaches an optimum in some order, namely that of the optimum's offsets. So a
    few good orders are tried, then, while the bound is not reached, others depth first.
    """
    ids = range(len(blocks))
    orders = [
        sorted(ids, key=lambda i: (-blocks[i].size, blocks[i].first)),
        sorted(ids, key=lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), blocks[i].first)),
        sorted(ids, key=lambda i: (blocks[i].first, -blocks[i].size)),
    ]
    best = min((_lay(blocks, order) for order in orders), key=lambda offsets: _top(blocks, offsets))
    return best if _top(blocks, best) == bound else _search(blocks, best, bound)


def _top(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    return max((o + b.size for o, b in zip(offsets, blocks, strict=True)), default=0)


def _lay(blocks: Sequence[Block], order: Sequence[int]) -> list[int]:
    """Each block in turn at the lowest place that is free."""
    laid: dict[int, int] = {}
    for i in order:
        laid[i] = _lowest(blocks, laid, i, 0)
    return [laid[i] for i in range(len(blocks))]


def _lowest(blocks: Sequence[Block], laid: dict[int, int], i: int, floor: int) -> int:
    """The lowest offset from `floor` where block `i` fits between those that are laid."""
    offset = floor
    for low, size in sorted((o, blocks[j].size) for j, o in laid.items() if blocks[j].meets(blocks[i])):
        if low >= offset + blocks[i].size:
            break
        offset = max(offset, low + size)
    return offset


def _search(blocks: Sequence[Block], best: list[int], bound: int) -> list[int]:
    """The best of many orders with rising offsets; `best` itself if none is better."""
    top, tries = _top(blocks, best), TRIES
    stack: list[tuple[dict[int, int], int]] = [({}, 0)]
    while stack and top > bound and tries > 0:
        laid, floor = stack.pop()
        rest = [i for i in range(len(blocks)) if i not in laid]
        if not rest and max(o + blocks[i].size for i, o in laid.items()) < top:
            best = [laid[i] for i in range(len(blocks))]
            top = _top(blocks, best)
        nexts = [(_lowest(blocks, laid, i, floor), i) for i in rest]
        tries -= len(nexts)
        if all(offset + blocks[i].size < top for offset, i in nexts):
            for offset, i in sorted(nexts, key=lambda n: (-n[0], blocks[n[1]].size)):
                stack.append(({**laid, i: offset}, offset))
    return best
