"""A program as a plain ONNX file: dense weights with zeros, any batch size, norms folded as in the program.

What this file does not do: keep the weights sparse or small; ONNX has no form for that that its runtimes use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...core import store
from ...core.errors import ResproutError
from ..program import (
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

OPSET, IR_VERSION = 17, 8  # of 2022; every runtime of today reads them


def to_onnx(path: str | Path, program: Program, tensors: Mapping[str, Tensor]) -> int:
    """Write the network to one file with an input "input" and an output "output"; atomic.

    Args:
        path: the file, replaced whole.
        program: the operations.
        tensors: what they need.

    Returns:
        its size in bytes.

    Raises:
        ResproutError: tensors that do not fit the program, or the package `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ResproutError('ONNX files need the package onnx: pip install "resprout[onnx]"') from error
    program.check(tensors)
    model = _Writer(onnx, program, tensors).model()
    data = model.SerializeToString()
    store.write(Path(path), data)
    return len(data)


class _Writer:
    """Collects nodes and constants."""

    def __init__(self, onnx: Any, program: Program, tensors: Mapping[str, Tensor]):
        self.onnx, self.program, self.tensors = onnx, program, tensors
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.last = ""  # the result of the latest node

    def model(self) -> Any:
        """Return the whole as a checked `ModelProto`."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        values = ["input"]
        for op in self.program.ops:
            self._op(op, [values[i] for i in op.inputs])
            values.append(self.last)
        self._node("Identity", [values[-1]], to="output")
        graph = helper.make_graph(
            self.nodes,
            "resprout",
            [self._info("input", self.program.input)],
            [self._info("output", self.program.output)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="resprout")
        self.onnx.checker.check_model(model)
        return model

    def _info(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, ["N", *shape])

    def _op(self, op: Op, given: list[str]) -> None:
        match op:
            case Conv():
                window = self._window(op)
                weights = self._weights(op.weight, op.bias)
                self._node("Conv", [*given, *weights], **window, dilations=op.dilation, group=op.groups)
            case Linear():
                self._node("Gemm", [*given, *self._weights(op.weight, op.bias)], transB=1)
            case Scale():
                axes = [-1] + [1] * (len(self.program.shapes[op.inputs[0]]) - 1)
                scale, shift = (self._tensor(n, axes) for n in (op.weight, op.bias))
                self._node("Mul", [*given, scale])
                self._node("Add", [self.last, shift])
            case Pool():
                counted: dict[str, Any] = {} if op.maximum else {"count_include_pad": int(op.counts_padding)}
                self._node("MaxPool" if op.maximum else "AveragePool", given, **self._window(op), **counted)
            case Add():
                self._node("Add", given)
            case Activation():
                self.last = given[0]
            case Concat():
                self._node("Concat", given, axis=1)
            case Shortcut():
                starts, ends, axes, steps = [0, 0], [2**31 - 1] * 2, [2, 3], list(op.stride)
                self._node("Slice", [*given, *(self._whole(w) for w in (starts, ends, axes, steps))])
                pads = self._whole([0, op.before, 0, 0, 0, op.after, 0, 0])
                self._node("Pad", [self.last, pads])
            case Flatten():
                self._node("Flatten", given, axis=1)
            case Softmax():
                self._node("Softmax", given, axis=1)
            case _:
                raise ResproutError(f"ONNX files cannot hold operation {op.name!r} yet")
        if isinstance(op, Activated):
            self._activate(op)

    @staticmethod
    def _window(op: Conv | Pool) -> dict[str, Any]:
        return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding * 2}

    def _activate(self, op: Activated) -> None:
        if op.slope == 0:
            self._node("Relu", [self.last])
        elif op.slope != 1:
            self._node("LeakyRelu", [self.last], alpha=op.slope)
        if op.cap < math.inf:
            self._node("Clip", [self.last, "", self._constant(f"/cap/{op.cap}", np.float32(op.cap))])

    def _node(self, kind: str, inputs: list[str], to: str = "", **attributes: Any) -> None:
        self.last = to or f"/{len(self.nodes)}/{kind}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [self.last], **attributes))

    def _weights(self, weight: str, bias: str | None) -> list[str]:
        return [self._tensor(n) for n in (weight, bias) if n is not None]

    def _tensor(self, name: str, axes: list[int] | None = None) -> str:
        """A tensor of the network, whole or as a vector that is broadcast over a plane."""
        array = self.tensors[name].detach().cpu().float().numpy()
        if axes is None or len(axes) == 1:
            return self._constant(name, array)
        return self._constant(f"{name}/plane", array.reshape(axes))

    def _whole(self, numbers: list[int]) -> str:
        return self._constant("/" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def _constant(self, name: str, array: Any) -> str:
        name = f"{name}/" if name in ("input", "output") else name  # those names are taken
        self.constants[name] = np.asarray(array)
        return name
