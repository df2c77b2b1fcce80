"""From a `Program` and its tensors to the flat list of operations that C runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..program import Activated, Add, Concat, Conv, Flatten, Linear, Op, Pool, Program, Scale, Shortcut, Softmax
from . import native

NONE = -1


@dataclass
class Lowered:
    """What C needs.

    Attributes:
        shapes: (channels, height, width) of every value.
        ops: in the order of the work; they point into `kept`.
        names: for each, the weight that it uses, or its kind.
    """

    shapes: NDArray[np.int32]
    ops: list[native.Op] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    kept: list[NDArray[Any]] = field(default_factory=list)

    def add(self, name: str, kind: str, out: int, inputs: tuple[int, ...], op: Op | None = None) -> native.Op:
        """Append an operation with what all kinds share, and return it to be filled in."""
        made = native.Op(kind=native.KINDS.index(kind), out=out, groups=1, slope=1.0, cap=math.inf)
        made.inputs[:] = (*inputs, NONE)[:2]
        for pair, start in ((made.kernel, 1), (made.stride, 1), (made.padding, 0), (made.dilation, 1)):
            pair[:] = (start, start)
        if isinstance(op, Activated):
            made.slope, made.cap = op.slope, op.cap
        self.ops.append(made)
        self.names.append(name)
        return made

    def address(self, tensor: Tensor | NDArray[Any], kind: type) -> int:
        """Keep an array and return where it is."""
        array = np.ascontiguousarray(tensor.numpy() if isinstance(tensor, Tensor) else tensor, kind)
        self.kept.append(array)
        return array.ctypes.data


def lower(program: Program, tensors: Mapping[str, Tensor]) -> Lowered:
    """Return the operations for C. A convolution whose result is only added to something takes the addition in."""
    shapes = program.shapes
    made = Lowered(np.array([(*s, 1, 1)[:3] for s in shapes], np.int32))
    taken = _residuals(program)
    for i, op in enumerate(program.ops):
        out = i + 1
        if i in taken.values():
            continue
        if i in taken:
            conv = program.ops[taken[i]]
            assert isinstance(conv, Conv | Linear)
            assert isinstance(op, Add)
            (other,) = (v for v in op.inputs if v != taken[i] + 1)
            _conv(made, replace(conv, slope=op.slope, cap=op.cap), out, tensors, (other,))
        elif isinstance(op, Conv | Linear):
            _conv(made, op, out, tensors)
        elif isinstance(op, Concat):
            at = 0
            for v in op.inputs:
                made.add(op.name, "copy", out, (v,)).at = at
                at += shapes[v][0]
        else:
            _other(made, op, out, tensors)
    return made


def _residuals(program: Program) -> dict[int, int]:
    """Addition -> the convolution that can take it in: no activation of its own, and nobody else reads its result."""
    readers = Counter(v for op in program.ops for v in op.inputs)
    found: dict[int, int] = {}
    for i, op in enumerate(program.ops):
        if isinstance(op, Add):
            for v in sorted(op.inputs, reverse=True):
                conv = program.ops[v - 1] if v else None
                if isinstance(conv, Conv | Linear) and (conv.slope, conv.cap) == (1, math.inf) and readers[v] == 1:
                    found[i] = v - 1
                    break
    return found


def _conv(
    made: Lowered, op: Conv | Linear, out: int, tensors: Mapping[str, Tensor], residual: tuple[int, ...] = ()
) -> None:
    """A convolution, or a linear layer as one of 1x1, with the nonzeros of its weight in the order of the file."""
    weight = tensors[op.weight].numpy().reshape(tensors[op.weight].shape[0], -1)
    rows, places = np.nonzero(weight)
    conv = made.add(op.weight, "conv", out, (*op.inputs, *residual), op)
    conv.row = made.address(np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(weight)))]), np.int64)
    conv.place, conv.value = made.address(places, np.int32), made.address(weight[rows, places], np.float32)
    conv.bias = made.address(tensors[op.bias], np.float32) if op.bias else None
    if isinstance(op, Conv):
        conv.groups = op.groups
        conv.kernel[:], conv.stride[:], conv.padding[:], conv.dilation[:] = (
            op.kernel,
            op.stride,
            op.padding,
            op.dilation,
        )


def _other(made: Lowered, op: Op, out: int, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(op, Pool):
        pool = made.add(op.name, "pool", out, op.inputs)
        pool.kernel[:], pool.stride[:], pool.padding[:] = op.kernel, op.stride, op.padding
        pool.maximum, pool.counts_padding = op.maximum, op.counts_padding
    elif isinstance(op, Scale):
        scale = made.add(op.weight, "scale", out, op.inputs, op)
        scale.value = made.address(tensors[op.weight], np.float32)
        scale.bias = made.address(tensors[op.bias], np.float32)
    elif isinstance(op, Shortcut):
        shortcut = made.add(op.name, "shortcut", out, op.inputs)
        shortcut.stride[:], shortcut.at = op.stride, op.before
    else:
        assert isinstance(op, Add | Activated | Flatten | Softmax)
        made.add(op.name, op.name, out, op.inputs, op)
