"""The same program in less memory: a convolution pools or adds its result channel by channel.

A convolution whose only reader is a pooling needs one channel of memory instead of all; one whose only reader is an
addition sums onto the other operand, which need not be kept.

What this file does not do: anything for speed; the arithmetic stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from ...core.errors import ResproutError
from ..plan import Plan, plan
from ..program import Add, Conv, Op, Pool, Program, Shape


@dataclass(frozen=True, kw_only=True)
class ConvPool(Conv):
    """A convolution and the pooling of its result."""

    name: ClassVar[str] = "conv_pool"
    pool: Pool

    def shape(self, *given: Shape) -> Shape:
        """That of the pooled result."""
        return self.pool.shape(super().shape(*given))


@dataclass(frozen=True, kw_only=True)
class ConvAdd(Conv):
    """The convolution of the first operand, plus the second one, then activated."""

    name: ClassVar[str] = "conv_add"

    def shape(self, *given: Shape) -> Shape:
        """That of the second operand."""
        result = super().shape(given[0])
        if result != given[1]:
            raise ResproutError(f"{self.weight!r}: cannot add {result} and {given[1]}")
        return result

    @property
    def onto(self) -> tuple[int, ...]:
        """The operand that the result may overwrite; not where it is the input of the convolution too."""
        return self.inputs[1:] if self.inputs[0] != self.inputs[1] else ()


@dataclass(frozen=True)
class Fused:
    """A program for one caller at a time, and its memory in elements.

    Attributes:
        program: the operations.
        plan: where the values lie.
        scratch: a further place, for one channel that is about to be pooled.
    """

    program: Program
    plan: Plan
    scratch: int

    @property
    def size(self) -> int:
        """All memory between the operations, in elements."""
        return self.plan.size + self.scratch


def fused(program: Program) -> Fused:
    """Return the program with convolutions fused where that takes less memory, else as it is."""
    tried = [Fused(p, plan(p), _scratch(p)) for p in (program, _fuse(program))]
    return min(tried, key=lambda f: f.size)


def _fuse(program: Program) -> Program:
    """Fuse every convolution that has a pooling or an addition as its only reader, at the reader's place."""
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(program.ops, 1):
        for i in op.inputs:
            readers.setdefault(i, []).append(k)
    taken: dict[int, int] = {}  # a reader -> the convolution that goes into it; the one that is made last
    for k, op in enumerate(program.ops, 1):
        if type(op) is Conv and len(readers.get(k, [])) == 1 and _fits(op, program.ops[readers[k][0] - 1]):
            taken[readers[k][0]] = k
    where, ops = [0], []
    for k, op in enumerate(program.ops, 1):
        if k in taken.values():
            where.append(-1)  # nobody else asks for it
            continue
        fresh = _join(program.ops[taken[k] - 1], op, taken[k]) if k in taken else op
        ops.append(replace(fresh, inputs=tuple(where[i] for i in fresh.inputs)))
        where.append(len(ops))
    return Program(program.input, tuple(ops))


def _fits(conv: Conv, reader: Op) -> bool:
    """Whether the reader can take the convolution in: an activation stands between none of its sums."""
    return isinstance(reader, Pool) or (isinstance(reader, Add) and conv.slope == 1 and math.isinf(conv.cap))


def _join(conv: Op, reader: Op, value: int) -> Op:
    """One operation for both; `value` is the convolution's result."""
    known: dict[str, Any] = {f.name: getattr(conv, f.name) for f in fields(conv)}
    if isinstance(reader, Pool):
        return ConvPool(**known, pool=reader)
    assert isinstance(reader, Add)
    other = [i for i in reader.inputs if i != value]
    return ConvAdd(**known | {"inputs": (*conv.inputs, *other), "slope": reader.slope, "cap": reader.cap})


def _scratch(program: Program) -> int:
    """The largest channel that is about to be pooled, in elements."""
    return max((math.prod(s[1:]) for s in _unpooled(program)), default=0)


def _unpooled(program: Program) -> Sequence[Shape]:
    shapes = program.shapes
    return [Conv.shape(op, shapes[op.inputs[0]]) for op in program.ops if isinstance(op, ConvPool)]
