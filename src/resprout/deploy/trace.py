"""From a PyTorch model to a `Program`: name each operation of its graph, fold the norms, fuse the activations.

Everything here is exact in real arithmetic.

What this file does not do: shapes that change from call to call, several inputs or outputs, or branches on data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from ..core.errors import ResproutError, TraceError
from ..core.hold import unwrap
from ..core.probe import describe, first_tensor
from . import interpret
from . import program as p
from .fuse import fuse
from .graph import BATCH, Constant, Graph, arguments, aside, batch_for, export, kind
from .program import Op, Pair, Program, Shape
from .remedy import unsupported

SAME = {"alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh_copy", "to", "_to_copy"}
RESHAPES = {"flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "_unsafe_view"}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
TOLERANCE = 1e-3  # between program and model, of the largest output; order of summation alone makes about 1e-6


@dataclass(frozen=True)
class Traced:
    """A model as a device sees it.

    Attributes:
        program: the operations.
        tensors: what they need, float32 on the processor, norms folded in; weights under their `state_dict` names.
        folds: name of a weight -> prefix of the norm that was folded into it; its bias has the name of the norm's.
        sources: what of the `state_dict` went into tensors that have names of their own (with a colon), such as the two
            parts of a normalised weight; who restores the model needs these too.
    """

    program: Program
    tensors: dict[str, Tensor]
    folds: dict[str, str]
    sources: tuple[str, ...] = ()


def lower(model: nn.Module, example: Any) -> Traced:
    """Return what `model` computes in eval mode; the model is left as it was.

    A batch norm behind a convolution or linear layer is folded into its weights, unless somebody reads the result
    before the norm, or weights or norm are also used elsewhere in another pairing: then it is a `Scale`.

    Args:
        model: a network built of the operations that `remedy.SUPPORTED` lists.
        example: a batch of inputs (N, channels, height, width) or (N, features), or a tuple that begins with one.

    Raises:
        TraceError: an operation that devices do not know, several inputs or outputs, weights that are not finite, or a
            model that computes something else than its own graph.
    """
    model = unwrap(model)
    try:
        example = first_tensor(example)
    except (TypeError, StopIteration) as error:
        raise TraceError(f"example must be a batch of inputs, got {describe(example)}") from error
    if example.dim() not in (2, 4) or not example.numel():
        shapes = "(N, channels, height, width) or (N, features)"
        raise TraceError(f"example must be {shapes} and not empty, got {describe(example)}")
    if example.dtype in (torch.int32, torch.int64):
        raise TraceError(f"the inputs are whole numbers, {describe(example)}, and a program reads floating-point ones")
    tracer = _Tracer(export(model, example), model)
    try:
        output = tracer.walk()
        ops, folds = fuse(tracer.ops, output, tracer.tensors, tracer.norms)
        program = Program(tracer.shapes[0], ops)
    except ResproutError as error:
        raise error if isinstance(error, TraceError) else TraceError(str(error)) from error
    tensors = {n: tracer.tensors[n].to("cpu", torch.float32, copy=True).contiguous() for n in program.needs()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            norm = f" with the norm {folds[name]!r} folded in" if name in folds else ""
            raise TraceError(f"{name!r}{norm} holds NaN, infinity, or values beyond float32")
    _verify(model, program, tensors)
    return Traced(program, tensors, folds, tuple(tracer.sources))


def _verify(model: nn.Module, program: Program, tensors: dict[str, Tensor]) -> None:
    """Run both on a random input: what an operation overwrites, say, may be shared in ways that no graph shows."""
    x = batch_for(model, torch.randn(1, *program.input, generator=torch.Generator().manual_seed(0)))
    if x.dtype not in (torch.float32, torch.float64):
        return  # too coarse to compare
    with aside(model):
        expected = first_tensor(model(x)).cpu().float()
    error = (interpret.run(program, tensors, x.cpu().float()) - expected).abs().max()
    if not error <= TOLERANCE * expected.abs().max() + 1e-6:
        why = "does it overwrite a tensor that is read elsewhere, or depend on something besides its input?"
        raise TraceError(f"the program of {type(model).__name__} computes something else than the model itself; {why}")


@dataclass(frozen=True)
class _Value:
    """A value of the program to be."""

    index: int
    shape: Shape


class _Tracer:
    """Walks a graph once, giving each node a value (with a new operation or not) or a constant."""

    def __init__(self, graph: Graph, model: nn.Module):
        self.graph = graph
        self.parameters = dict(model.named_parameters())
        norms = [n for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
        self.batch_norms: dict[tuple[str, ...], str] = {(f"{n}.running_mean",): n for n in norms}
        self.ops: list[Op] = []
        self.shapes: list[Shape] = [tuple(graph.input.meta["val"].shape[1:])]
        self.tensors: dict[str, Tensor] = {}
        self.norms: dict[str, str] = {}  # weight of a Scale -> prefix of the norm that it was
        self.sources: dict[str, None] = {}  # in the order found

    def walk(self) -> int:
        """Visit the nodes; return the index of the output."""
        known: dict[Node, Any] = {**self.graph.constants, self.graph.input: _Value(0, self.shapes[0])}
        for node in self.graph.nodes:
            if node.op == "get_attr":  # a part of the graph that an unsupported operation runs
                known[node] = node.target
                continue
            args = arguments(node, known)
            try:
                known[node] = self._value(node, args) if _of(_Value, args) else self._constant(node, known)
            except TraceError:
                raise
            except (ResproutError, RuntimeError, IndexError, TypeError) as error:
                raise unsupported(node, str(error)) from error
        return known[self.graph.output].index

    def _constant(self, node: Node, known: dict[Node, Any]) -> Constant:
        """Compute what does not depend on the input."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: known[n].tensor)
        assert callable(node.target)
        return Constant(node.target(*args, **kwargs), _names(*(known[n] for n in node.all_input_nodes)))

    def _value(self, node: Node, args: list[Any]) -> _Value:
        """Match a node with the table, and its shape with what torch says it is."""
        result = node.meta["val"]
        result = tuple((result[0] if isinstance(result, tuple | list) else result).shape)
        found = self._match(node, kind(node).removesuffix("_"), args, result[1:])
        if found is None or (BATCH, *found.shape) != result:
            raise unsupported(node)
        return found

    def _match(self, node: Node, name: str, args: list[Any], result: Shape) -> _Value | None:
        """The table of all that is supported: from an operation of PyTorch to ours; None where there is none."""
        match name, args:
            # -- nothing to do ---------------------------------------------------------------------------------
            case "getitem", [_Value() as x, 0]:
                return x
            case "dropout" | "feature_dropout", [_, _, True]:
                return None
            case _, [_Value() as x, *_] if name in SAME:
                return x
            case _, [_Value() as x, *_] if name in RESHAPES:
                return self._flat(x) if len(result) == 1 else x
            case "slice", [_Value() as x, _, _, _, 1]:
                return x

            # -- layers ----------------------------------------------------------------------------------------
            case "conv2d", [_Value() as x, Constant() as w, b, stride, padding, dilation, groups]:
                return self._conv(node, x, w, b, stride, padding, dilation, groups)
            case "convolution", [_Value() as x, Constant() as w, b, stride, padding, dilation, False, _, groups]:
                return self._conv(node, x, w, b, stride, padding, dilation, groups)
            case "linear", [_Value() as x, Constant() as w, b]:
                return self._linear(node, x, w, b)
            case "matmul" | "mm", [_Value() as x, Constant() as w]:
                return self._linear(node, x, _apply(torch.t, w), None)
            case "addmm", [Constant() as b, _Value() as x, Constant() as w, 1, 1]:
                return self._linear(node, x, _apply(torch.t, w), b)
            case "batch_norm", [_Value() as x, w, b, Constant() as mean, var, False, _, eps, _]:
                return self._norm(node, x, w, b, mean, var, eps)
            case "_native_batch_norm_legit_no_training", [_Value() as x, w, b, mean, var, _, eps]:
                return self._norm(node, x, w, b, mean, var, eps)

            # -- activations -----------------------------------------------------------------------------------
            case "relu", [_Value() as x]:
                return self._activation(x, 0)
            case "relu6", [_Value() as x]:
                return self._activation(x, 0, 6)
            case "leaky_relu", [_Value() as x, slope]:
                return self._activation(x, slope)
            case "hardtanh" | "clamp", [_Value() as x, 0, None | int() | float() as cap]:
                return self._activation(x, 0, cap)
            case "clamp_min", [_Value() as x, 0]:
                return self._activation(x, 0)
            case ("clamp", [_Value() as x, None, int() | float() as cap]) | (
                "clamp_max",
                [_Value() as x, int() | float() as cap],
            ):
                return self._activation(x, 1, cap)
            case "softmax" | "_softmax", [_Value() as x, 1 | -1, _]:
                return self._emit(p.Softmax(inputs=(x.index,)))

            # -- pooling ---------------------------------------------------------------------------------------
            case "max_pool2d" | "max_pool2d_with_indices", [_Value() as x, kernel, stride, padding, dilation, _]:
                return self._pool(x, True, kernel, stride, padding) if _pair(dilation) == (1, 1) else None
            case "avg_pool2d", [_Value() as x, kernel, stride, padding, _, counts_padding, None]:
                return self._pool(x, False, kernel, stride, padding, counts_padding)
            case "adaptive_avg_pool2d" | "_adaptive_avg_pool2d", [_Value() as x, _]:
                return self._shrink(x, False, result)
            case "adaptive_max_pool2d", [_Value() as x, _]:
                return self._shrink(x, True, result)
            case "mean", [_Value() as x, [_, _] as dims, keepdim, None] if {d % 4 for d in dims} == {2, 3}:
                pooled = self._shrink(x, False, (x.shape[0], 1, 1))
                return pooled if keepdim else self._flat(pooled)

            # -- several values, and constants -----------------------------------------------------------------
            case "cat", [[*xs], dim] if len(_of(_Value, xs)) == len(xs) and dim % (1 + len(result)) == 1:
                return self._emit(p.Concat(inputs=tuple(x.index for x in xs)))
            case "add", [_Value() as x, _Value() as y, 1]:
                return self._emit(p.Add(inputs=(x.index, y.index)))
            case "add", [_Value() as x, c, 1] | [c, _Value() as x, 1]:
                return self._scale(node, x, 1, c)
            case "sub", [_Value() as x, c, 1]:
                return self._scale(node, x, 1, _apply(torch.neg, c))
            case "mul", [_Value() as x, c] | [c, _Value() as x]:
                return self._scale(node, x, c, 0)
            case "div", [_Value() as x, c]:
                return self._scale(node, x, _apply(torch.reciprocal, c), 0)

            # -- a ResNet's option A ---------------------------------------------------------------------------
            case "slice", [_Value() as x, dim, 0 | None, _, step] if dim % 4 > 1:
                return self._shortcut(x, (step, 1) if dim % 4 == 2 else (1, step))
            case "pad", [_Value() as x, [0, 0, 0, 0, before, after], "constant", None | 0]:
                return self._shortcut(x, (1, 1), before, after)
            case "constant_pad_nd", [_Value() as x, [0, 0, 0, 0, before, after], 0]:
                return self._shortcut(x, (1, 1), before, after)
            case _:
                return None

    def _emit(self, op: Op) -> _Value:
        shape = op.shape(*(self.shapes[i] for i in op.inputs))
        self.ops.append(op)
        self.shapes.append(shape)
        return _Value(len(self.ops), shape)

    def _keep(self, default: str, tensor: Tensor, names: tuple[str, ...] = ()) -> str:
        """Store a tensor made of what has these names, and return how it is called.

        If it still is one of the parameters (with zeros, perhaps) it keeps that name; else it gets `default`, which has a
        colon, as no name in a `state_dict` has.
        """
        own = {n: self.parameters[n].detach() for n in names if n in self.parameters}
        name, parameter = own.popitem() if len(own) == 1 else ("", tensor)
        if not name or parameter.shape != tensor.shape or not torch.equal(tensor, parameter * (tensor != 0)):
            name = default
            self.sources |= dict.fromkeys(names)
        while name in self.tensors and not torch.equal(self.tensors[name], tensor):
            name += "+"
        self.tensors[name] = tensor
        return name

    def _layer(self, node: Node, w: Constant, b: Constant | None) -> tuple[str, str | None]:
        """The names of a weight and a bias."""
        weight = self._keep(f"{node.name}:weight", w.tensor, w.names)
        return weight, b and self._keep(f"{node.name}:bias", b.tensor, b.names)

    def _conv(
        self, node: Node, x: _Value, w: Constant, b: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> _Value:
        kernel, dilation = _pair(w.tensor.shape[2:]), _pair(dilation)
        if padding == "same":
            spread = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            if any(n % 2 for n in spread):
                raise ResproutError("with padding='same' on one side more than on the other; use an odd kernel")
            padding = [n // 2 for n in spread]
        weight, bias = self._layer(node, w, b)
        return self._emit(
            p.Conv(
                inputs=(x.index,),
                weight=weight,
                bias=bias,
                channels=len(w.tensor),
                kernel=kernel,
                stride=_pair(stride),
                padding=(0, 0) if padding == "valid" else _pair(padding),
                dilation=dilation,
                groups=groups,
            )
        )

    def _linear(self, node: Node, x: _Value, w: Constant, b: Any) -> _Value:
        weight, bias = self._layer(node, w, b)
        return self._emit(p.Linear(inputs=(x.index,), weight=weight, bias=bias, features=len(w.tensor)))

    def _norm(self, node: Node, x: _Value, w: Any, b: Any, mean: Constant, var: Constant, eps: float) -> _Value:
        prefix = self.batch_norms.get(mean.names)
        stem = f"{node.name}:" if prefix is None else f"{prefix}."
        scale = (var.tensor.double() + eps).rsqrt() * (w.tensor if w else 1)
        shift = (b.tensor if b else 0) - mean.tensor * scale
        if not (scale.isfinite().all() and shift.isfinite().all()):
            raise ResproutError(f"the norm {stem[:-1]!r} has a weight, bias, mean or variance that is not finite")
        sources = _names(w, b, mean, var) if prefix is None else ()
        weight, bias = (self._keep(f"{stem}{n}", t, sources) for n, t in (("weight", scale), ("bias", shift)))
        if prefix is not None and (weight, bias) == (f"{stem}weight", f"{stem}bias"):
            self.norms[weight] = prefix
        return self._emit(p.Scale(inputs=(x.index,), weight=weight, bias=bias))

    def _scale(self, node: Node, x: _Value, w: Any, b: Any) -> _Value:
        weight = self._keep(f"{node.name}:weight", _channels(w, x.shape), _names(w))
        bias = self._keep(f"{node.name}:bias", _channels(b, x.shape), _names(b))
        return self._emit(p.Scale(inputs=(x.index,), weight=weight, bias=bias))

    def _activation(self, x: _Value, slope: float, cap: float | None = None) -> _Value:
        cap = math.inf if cap is None else float(cap)
        if cap < 0:
            raise ResproutError(f"with an upper bound of {cap}, which is below 0")
        return self._emit(p.Activation(inputs=(x.index,), slope=float(slope), cap=cap))

    def _pool(
        self, x: _Value, maximum: bool, kernel: Any, stride: Any, padding: Any, counts_padding: bool = True
    ) -> _Value:
        kernel, padding = _pair(kernel), _pair(padding)
        stride = _pair(stride) if stride else kernel
        if (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0)):
            return x
        counts_padding = counts_padding or padding == (0, 0)
        made = p.Pool(inputs=(x.index,), maximum=maximum, kernel=kernel, stride=stride, padding=padding)
        return self._emit(replace(made, counts_padding=counts_padding))

    def _shrink(self, x: _Value, maximum: bool, result: Shape) -> _Value | None:
        """A pooling to the size of `result`, if that divides the size of `x`."""
        if any(n % m for n, m in zip(x.shape, result, strict=True)):
            return None
        kernel = (x.shape[1] // result[1], x.shape[2] // result[2])
        return self._pool(x, maximum, kernel, kernel, 0)

    def _shortcut(self, x: _Value, stride: Pair, before: int = 0, after: int = 0) -> _Value:
        """A shortcut, or one in the place of two."""
        of = self.ops[x.index - 1] if x.index else None
        if isinstance(of, p.Shortcut):
            stride = (stride[0] * of.stride[0], stride[1] * of.stride[1])
            x, before, after = _Value(of.inputs[0], ()), before + of.before, after + of.after
        return self._emit(p.Shortcut(inputs=(x.index,), stride=stride, before=before, after=after))

    def _flat(self, x: _Value | None) -> _Value | None:
        return x if x is None or len(x.shape) == 1 else self._emit(p.Flatten(inputs=(x.index,)))


def _of(wanted: type, args: Any) -> list[Any]:
    """Those of `args` that are of one type, also within lists."""
    flat = [a for arg in args for a in (arg if isinstance(arg, tuple | list) else [arg])]
    return [a for a in flat if isinstance(a, wanted)]


def _names(*constants: Any) -> tuple[str, ...]:
    """What some constants (and numbers, or None) were made of."""
    return tuple(dict.fromkeys(name for c in _of(Constant, constants) for name in c.names))


def _pair(value: Any) -> Pair:
    """Height and width: of one number both."""
    both = [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    height, width = both
    return int(height), int(width)


def _apply(function: Callable[[Tensor], Tensor], c: Any) -> Any:
    """A constant or a number, put through a function."""
    if isinstance(c, Constant):
        return Constant(function(c.tensor), c.names)
    return function(torch.tensor(float(c))) if isinstance(c, int | float) else c


def _channels(c: Any, shape: Shape) -> Tensor:
    """A constant that scales or shifts a value of this shape: one number per channel."""
    if isinstance(c, _Value):
        raise ResproutError("of two values that depend on the input")
    tensor = torch.as_tensor(c.tensor if isinstance(c, Constant) else c, dtype=torch.float64)
    for d in range(tensor.dim()):  # what is the same all along a dimension is one number there
        if d != tensor.dim() - len(shape) and (tensor == tensor.narrow(d, 0, 1)).all():
            tensor = tensor.narrow(d, 0, 1)
    sizes = (1,) * (len(shape) + 1 - tensor.dim()) + tuple(tensor.shape)
    if len(sizes) > len(shape) + 1 or any(n != 1 for i, n in enumerate(sizes) if i != 1):
        raise ResproutError(f"with a constant of shape {tuple(tensor.shape)}; one number per channel is supported")
    return tensor.flatten().expand(shape[0])
