"""Run a `Program` with plain torch functions: the reference for every other way to run it.

What this file does not do: use that weights are zero, or remember anything between calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ..core.errors import ResproutError
from .program import (
    Activated,
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Op,
    Pool,
    Program,
    Scale,
    Shortcut,
    Softmax,
)


@torch.no_grad()
def run(program: Program, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the output for a batch `x` of shape (N, *program.input).

    Raises:
        ResproutError: an input of another shape.
    """
    if tuple(x.shape[1:]) != program.input:
        raise ResproutError(f"the input must be (N, {', '.join(map(str, program.input))}), got {tuple(x.shape)}")
    last = {i: k for k, op in enumerate(program.ops) for i in op.inputs}
    values = {0: x}
    for k, op in enumerate(program.ops):
        values[k + 1] = apply(op, tensors, [values[i] for i in op.inputs])
        for i in set(op.inputs):
            if last[i] == k:
                del values[i]
    return values[len(program.ops)]


def apply(op: Op, tensors: Mapping[str, Tensor], given: list[Tensor]) -> Tensor:
    """Return the result of one operation for batches of operands."""
    result = _before_activation(op, tensors, given)
    return _activate(op, result) if isinstance(op, Activated) else result


def _before_activation(op: Op, tensors: Mapping[str, Tensor], given: list[Tensor]) -> Tensor:
    x = given[0]
    match op:
        case Conv():
            bias = tensors[op.bias] if op.bias else None
            return functional.conv2d(x, tensors[op.weight], bias, op.stride, op.padding, op.dilation, op.groups)
        case Linear():
            return functional.linear(x, tensors[op.weight], tensors[op.bias] if op.bias else None)
        case Scale():
            weight, bias = (tensors[n].view(-1, *[1] * (x.dim() - 2)) for n in (op.weight, op.bias))
            return x * weight + bias
        case Pool(maximum=True):
            return functional.max_pool2d(x, op.kernel, op.stride, op.padding)
        case Pool():
            return functional.avg_pool2d(x, op.kernel, op.stride, op.padding, count_include_pad=op.counts_padding)
        case Add():
            return x + given[1]
        case Activation():
            return x
        case Concat():
            return torch.cat(given, dim=1)
        case Shortcut():
            x = x[:, :, :: op.stride[0], :: op.stride[1]]
            return functional.pad(x, (0, 0, 0, 0, op.before, op.after))
        case Flatten():
            return x.flatten(1)
        case Softmax():
            return x.softmax(dim=1)
        case _:
            raise ResproutError(f"no operation {op.name!r}")


def _activate(op: Activated, x: Tensor) -> Tensor:
    """`x` above zero held at the cap, below zero times the slope."""
    if op.slope != 1:
        x = functional.leaky_relu(x, op.slope) if op.slope else functional.relu(x)
    return x if math.isinf(op.cap) else x.clamp(max=op.cap)
