"""What a network computes, as a list of operations: all that a device needs to know besides the weights.

A `Program` names its weights by their keys in a mapping of tensors that travels beside it. Value 0 is the network's
input, value k + 1 the result of operation k, and the last one is the output. Shapes are those of one sample:
(channels, height, width) or (features,). Batch norm does not occur: it is folded into the weights, or a `Scale`.

What this file does not do: recurrent networks, attention, or shapes that depend on data.
"""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.errors import CheckpointError, ResproutError

Shape = tuple[int, ...]
Pair = tuple[int, int]
LARGEST = 1 << 28  # elements of one value, with its padding; more is a damaged or hostile file
STEEPEST = 1e30  # slope of an activation, within float32


@dataclass(frozen=True, kw_only=True)
class Op(ABC):
    """One operation. `inputs` are indices of values."""

    name: ClassVar[str]
    inputs: tuple[int, ...]

    @abstractmethod
    def shape(self, *given: Shape) -> Shape:
        """Return the result's shape for operands of these shapes.

        Raises:
            ResproutError: shapes that the operation cannot take.
        """

    def macs(self, given: Shape, result: Shape) -> int:
        """Multiply-adds per sample and per weight of its first tensor that is alive (0 where it has no weights)."""
        return 0

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors it uses."""
        return tuple(n for f in ("weight", "bias") if (n := getattr(self, f, None)) is not None)

    def needs(self, given: Shape, result: Shape) -> dict[str, Shape]:
        """Return name -> shape of the tensors it uses, for a first operand and a result of these shapes."""
        return dict.fromkeys(self.tensors, result[:1])


@dataclass(frozen=True, kw_only=True)
class Activated(Op):
    """An operation whose result passes an activation: x above zero is held at `cap`, below it is times `slope`.

    slope 1 and no cap is the identity, slope 0 ReLU, slope 0 with cap 6 ReLU6, slope 0.01 LeakyReLU.
    """

    slope: float = 1.0
    cap: float = math.inf

    def __post_init__(self) -> None:
        if not abs(self.slope) <= STEEPEST or not self.cap >= 0:
            raise ResproutError(f"{self.name}: an activation of slope {self.slope} and cap {self.cap}")


@dataclass(frozen=True, kw_only=True)
class Conv(Activated):
    """A convolution; `weight` is (out, in / groups, kh, kw). Depthwise is groups == in."""

    name: ClassVar[str] = "conv"
    weight: str
    bias: str | None = None
    channels: int  # of the result
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def shape(self, *given: Shape) -> Shape:
        """(channels, height, width)."""
        c, *plane = _image(self, given)
        if self.groups < 1 or c % self.groups or self.channels % self.groups:
            raise ResproutError(
                f"{self.weight!r}: {c} -> {self.channels} channels do not split in {self.groups} groups"
            )
        return (self.channels, *_slide(plane, self.kernel, self.stride, self.padding, self.dilation))

    def needs(self, given: Shape, result: Shape) -> dict[str, Shape]:
        """Return name -> shape of weight and bias."""
        return super().needs(given, result) | {self.weight: (self.channels, given[0] // self.groups, *self.kernel)}

    def macs(self, given: Shape, result: Shape) -> int:
        """One per output position."""
        return math.prod(result[1:])


@dataclass(frozen=True, kw_only=True)
class Linear(Activated):
    """A fully connected layer; `weight` is (out, in). Its operand is flat."""

    name: ClassVar[str] = "linear"
    weight: str
    bias: str | None = None
    features: int  # of the result

    def shape(self, *given: Shape) -> Shape:
        """(features,)."""
        if len(given) != 1 or len(given[0]) != 1:
            raise ResproutError(f"{self.weight!r}: a linear layer takes one flat value, got {given}")
        return (self.features,)

    def needs(self, given: Shape, result: Shape) -> dict[str, Shape]:
        """Return name -> shape of weight and bias."""
        return super().needs(given, result) | {self.weight: (self.features, given[0])}

    def macs(self, given: Shape, result: Shape) -> int:
        """One."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Scale(Activated):
    """x * weight[channel] + bias[channel]: a batch norm that no convolution before it can take in."""

    name: ClassVar[str] = "scale"
    weight: str
    bias: str

    def shape(self, *given: Shape) -> Shape:
        """As it is."""
        return _one(self, given)


@dataclass(frozen=True, kw_only=True)
class Pool(Op):
    """The maximum or the mean of each window. Padding never wins a maximum; a mean divides by the whole kernel when
    `counts_padding`, else by the pixels inside.
    """

    name: ClassVar[str] = "pool"
    maximum: bool
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    counts_padding: bool = True

    def shape(self, *given: Shape) -> Shape:
        """(channels, height, width)."""
        c, *plane = _image(self, given)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ResproutError(f"pool: padding {self.padding} is over half of kernel {self.kernel}")
        return (c, *_slide(plane, self.kernel, self.stride, self.padding, (1, 1)))


@dataclass(frozen=True, kw_only=True)
class Add(Activated):
    """The sum of two values of one shape."""

    name: ClassVar[str] = "add"

    def shape(self, *given: Shape) -> Shape:
        """As they are."""
        if len(given) != 2 or given[0] != given[1]:
            raise ResproutError(f"add takes two values of one shape, got {given}")
        return given[0]


@dataclass(frozen=True, kw_only=True)
class Activation(Activated):
    """The activation alone."""

    name: ClassVar[str] = "activation"

    def shape(self, *given: Shape) -> Shape:
        """As it is."""
        return _one(self, given)


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Values beside each other along channels (or features)."""

    name: ClassVar[str] = "concat"

    def shape(self, *given: Shape) -> Shape:
        """The channels in all."""
        if not given or any(s[1:] != given[0][1:] for s in given):
            raise ResproutError(f"concat takes values of one height and width, got {given}")
        return (sum(s[0] for s in given), *given[0][1:])


@dataclass(frozen=True, kw_only=True)
class Shortcut(Op):
    """Every `stride`-th pixel, with `before` and `after` channels of zeros around (a ResNet's option A)."""

    name: ClassVar[str] = "shortcut"
    stride: Pair = (1, 1)
    before: int = 0
    after: int = 0

    def shape(self, *given: Shape) -> Shape:
        """(channels, height, width)."""
        c, h, w = _image(self, given)
        if min(self.before, self.after) < 0 or min(self.stride) < 1:
            raise ResproutError(f"shortcut: stride {self.stride}, channels {self.before} and {self.after}")
        return (c + self.before + self.after, -(-h // self.stride[0]), -(-w // self.stride[1]))


@dataclass(frozen=True, kw_only=True)
class Flatten(Op):
    """All numbers of a sample in a row, channel by channel."""

    name: ClassVar[str] = "flatten"

    def shape(self, *given: Shape) -> Shape:
        """(features,)."""
        return (math.prod(_one(self, given)),)


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """Softmax over the features of a flat value."""

    name: ClassVar[str] = "softmax"

    def shape(self, *given: Shape) -> Shape:
        """As it is."""
        if len(_one(self, given)) != 1:
            raise ResproutError(f"softmax takes a flat value, got {given}")
        return given[0]


OPS: dict[str, type[Op]] = {
    op.name: op for op in (Conv, Linear, Scale, Pool, Add, Activation, Concat, Shortcut, Flatten, Softmax)
}


@dataclass(frozen=True)
class Program:
    """The operations from an input of shape `input` (one sample) to the output, in an order that can be run."""

    input: Shape
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        self.needs()

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every value: the input, then each operation's result.

        Raises:
            ResproutError: operations that do not fit together.
        """
        shapes = [_sensible(self.input)]
        for op in self.ops:
            if not op.inputs or not all(0 <= i < len(shapes) for i in op.inputs):
                raise ResproutError(f"{op.name} number {len(shapes)} reads values {op.inputs}, which do not exist yet")
            shapes.append(_sensible(op.shape(*(shapes[i] for i in op.inputs))))
        return tuple(shapes)

    @property
    def output(self) -> Shape:
        """The shape of the output."""
        return self.shapes[-1]

    def needs(self) -> dict[str, Shape]:
        """Return the name and shape of every tensor that the program uses.

        Raises:
            ResproutError: two operations that need one name in different shapes.
        """
        shapes, needs = self.shapes, {}
        for op, result in zip(self.ops, shapes[1:], strict=True):
            for name, shape in op.needs(shapes[op.inputs[0]], result).items():
                if needs.setdefault(name, shape) != shape:
                    raise ResproutError(f"{name!r} is used as a tensor of shape {needs[name]} and of {shape}")
        return needs

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ResproutError where a tensor is missing or has another shape."""
        for name, shape in self.needs().items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                got = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise ResproutError(f"the program needs {name!r} of shape {shape}, got {got}")

    def macs(self) -> dict[str, int]:
        """Return weight name -> multiply-adds per sample that one weight alive costs (summed over its uses)."""
        shapes, found = self.shapes, {}
        for op, result in zip(self.ops, shapes[1:], strict=True):
            if isinstance(op, Conv | Linear):
                found[op.weight] = found.get(op.weight, 0) + op.macs(shapes[op.inputs[0]], result)
        return found

    def to_json(self) -> list[Any]:
        """Return [input, [name, {field: value}], ...] without fields that have their default."""
        rows: list[Any] = [list(self.input)]
        for op in self.ops:
            fields = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
            default = {f.name: f.default for f in dataclasses.fields(op)}
            rows.append([op.name, {k: v for k, v in fields.items() if v != default[k]}])
        return json.loads(json.dumps(rows))

    @classmethod
    def from_json(cls, rows: Any) -> Program:
        """Read what `to_json` made.

        Raises:
            CheckpointError: it is no program, or one that cannot be run.
        """
        try:
            ops = tuple(_op(OPS[kind], fields) for kind, fields in rows[1:])
            return cls(tuple(_whole(n) for n in rows[0]), ops)
        except (ResproutError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise CheckpointError(f"the file is damaged: its program cannot be read ({error})") from error


def _op(kind: type[Op], fields: dict[str, Any]) -> Op:
    """An operation with checked fields: whole numbers where whole numbers belong, and so on."""
    kinds = {f.name: f.type for f in dataclasses.fields(kind)}
    made = {}
    for name, value in fields.items():
        match kinds[name]:
            case "Pair" | "tuple[int, ...]":
                made[name] = tuple(_whole(v) for v in value)
                if kinds[name] == "Pair" and len(value) != 2:
                    raise ValueError(f"{name} is {value}")
            case "int":
                made[name] = _whole(value)
            case "float" if isinstance(value, int | float) and not isinstance(value, bool):
                made[name] = float(value)
            case "bool" if isinstance(value, bool):
                made[name] = value
            case "str" | "str | None" if isinstance(value, str):
                made[name] = value
            case _:
                raise ValueError(f"{name} is {value!r}")
    return kind(**made)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} is no whole number of the right size")
    return value


def _sensible(shape: Shape) -> Shape:
    if len(shape) not in (1, 3) or min(shape) < 1 or math.prod(shape) > LARGEST:
        raise ResproutError(f"a value cannot have shape {shape}")
    return shape


def _one(op: Op, given: tuple[Shape, ...]) -> Shape:
    if len(given) != 1:
        raise ResproutError(f"{op.name} takes one value, got {len(given)}")
    return given[0]


def _image(op: Op, given: tuple[Shape, ...]) -> Shape:
    shape = _one(op, given)
    if len(shape) != 3:
        raise ResproutError(f"{op.name} takes (channels, height, width), got {shape}")
    return shape


def _slide(plane: list[int], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Shape:
    """The height and width of a sliding window's result."""
    if min(*kernel, *stride, *dilation) < 1:
        raise ResproutError(f"kernel {kernel}, stride {stride} and dilation {dilation} start at 1")
    if min(padding) < 0 or math.prod(n + 2 * p for n, p in zip(plane, padding, strict=True)) > LARGEST:
        raise ResproutError(f"{tuple(plane)} cannot have padding {padding}")
    result = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(plane, kernel, stride, padding, dilation, strict=True)
    )
    if min(result) < 1:
        raise ResproutError(f"a kernel of {kernel} does not fit into {tuple(plane)} with padding {padding}")
    return result
