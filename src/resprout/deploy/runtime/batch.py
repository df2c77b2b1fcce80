"""Large batches: the operations up to some point run image by image, those after it with images in the lanes of vectors.

Large maps fill vectors by themselves; maps of a few pixels do not, and there the lanes are better filled with other images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..program import Program


def cuts(program: Program) -> list[int]:
    """Return the numbers k for which the operations from the k-th on read nothing older than the k-th value."""
    oldest, found = len(program.ops), []
    for k in range(len(program.ops) - 1, 0, -1):
        oldest = min(oldest, *program.ops[k].inputs)
        if oldest >= k:
            found.append(k)
    return found[::-1]


def halves(program: Program, cut: int) -> tuple[Program, Program]:
    """Return the operations before and from `cut` on, which is one of `cuts`, as two programs."""
    tail = tuple(replace(op, inputs=tuple(v - cut for v in op.inputs)) for op in program.ops[cut:])
    return Program(program.input, program.ops[:cut]), Program(program.shapes[cut], tail)


def best_cut(program: Program, alone: Mapping[int, float], beside: Mapping[int, float]) -> int:
    """Return the cut of the least time, from each operation's time image by image and in lanes; 0 or all if none pays."""
    last = len(program.ops)

    def time(k: int) -> float:
        return sum(t for i, t in alone.items() if i < k) + sum(t for i, t in beside.items() if i >= k)

    return min([0, *cuts(program), last], key=time)
