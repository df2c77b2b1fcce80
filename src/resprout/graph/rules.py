"""What each kind of operation demands of the labels of its operands, and the labels of its result.

Three families hold nearly all of PyTorch: operations element by element, operations that move elements (which are applied
to the labels themselves), and contractions (sums of products). What is in none of them lets nothing leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .families import ALONG, LITERAL, MAKES, MOVES, POINTWISE, REDUCE, SAME, SDPA, SPATIAL, UNIFORM, VIEWS
from .labels import OUTSIDE, Labels, Value, compress, varying
from .norms import counts
from .tape import Record, Tape, tensors_of


class Rules:
    """The labels of every tensor on a tape."""

    def __init__(self, model: nn.Module, tape: Tape):
        self.labels = Labels()
        self.values: dict[int, Value] = {}
        self.unknown: dict[str, str] = {}  # operations that are in no family -> a module that has it
        self.literal = False  # whether the model's code may name a size that changes
        self.modules = dict(model.named_modules())
        self._tape = tape
        self._first: dict[int, str] = {}
        params = dict(model.named_parameters(remove_duplicate=False))
        self._tied = {n: self._first.setdefault(id(p), n) for n, p in params.items()}
        self._made: dict[str, Value] = {}
        for name, tensor in tape.tensors.values():
            if name in params and tensor.is_floating_point():
                self.values[id(tensor)] = self._parameter(name, tensor)
        for row in tape.records:
            self._apply(row)
        for tensor in tensors_of(tape.output):
            for layer in self._value(tensor).layers:
                self.labels.freeze(layer, "the network returns it")

    def _parameter(self, name: str, tensor: Tensor) -> Value:
        first = self._tied.get(name, name)
        if first not in self._made:
            self._made[first] = self.labels.parameter(first, tensor.shape)
        return self._made[first]

    def _value(self, x: Any) -> Value:
        if not isinstance(x, Tensor):
            return Value((), [], constant=True)
        return self.values.get(id(x)) or Value(tuple(x.shape))

    def _buffer(self, x: Any) -> Value:
        """A buffer that belongs to channels, as the statistics of a norm do."""
        if isinstance(x, Tensor) and id(x) not in self.values and id(x) in self._tape.tensors:
            self.values[id(x)] = self._parameter(self._tape.tensors[id(x)][0], x)
        return self._value(x)

    # -- one operation -----------------------------------------------------------------------------------------

    def _apply(self, row: Record) -> None:
        name = row.func._schema.name.partition("::")[2]
        outs = tensors_of(row.out)
        if not outs:
            return
        base = name.removesuffix("_") if name.endswith("_") and not name.startswith("__") else name
        found = self._result(base, row, outs)
        if base != name and isinstance(row.args[0], Tensor):
            found = [self._overwritten(row, found[0])]
        for tensor, value in zip(outs, found, strict=False):
            self.values[id(tensor)] = value

    def _overwritten(self, row: Record, found: Value) -> Value:
        """What an operation in place leaves: of a view whose whole carries no labels, the whole would not know."""
        before = self._value(row.args[0])
        if row.args[0]._is_view() and not before.layers:
            for layer in found.layers:
                self.labels.freeze(layer, f"it is written into a part of another tensor in {self._at(row)}")
            return before
        return found

    def _result(self, name: str, row: Record, outs: list[Tensor]) -> list[Value]:
        own: Callable[..., list[Value]] | None = getattr(self, f"_op_{name}", None)
        shape = tuple(outs[0].shape)
        if own is not None:
            return own(row, outs)
        if name in SDPA:
            return self._attention(row, outs)
        if name in MOVES:
            return self._move(name, row, outs)
        if name in SAME:
            return [self._value(row.args[0]) for _ in outs]
        if name in SPATIAL:
            return [self._spatial(row, shape) for _ in outs]
        if name in REDUCE:
            return [self._reduce(name, row, tuple(o.shape)) for o in outs]
        if name in ALONG:
            rank = len(shape)
            after = row.args[2:] if name == "topk" else row.args[1:]  # its first whole number is how many
            dim = next((a for a in (*after, row.kwargs.get("dim")) if isinstance(a, int)), -1)
            return [self._pinned(self._value(row.args[0]), [dim % rank], self._why(name, row), shape) for _ in outs]
        if name in MAKES:
            return [Value(tuple(o.shape), [], constant=True, uniform=name in UNIFORM) for o in outs]
        if torch.Tag.pointwise in row.func.tags or name in POINTWISE:
            return [self._pointwise(row, tuple(o.shape)) for o in outs]
        return self._refuse(name, row, outs)

    def _at(self, row: Record) -> str:
        return (
            f"{row.module!r} ({type(self.modules[row.module]).__name__})" if row.module in self.modules else "the model"
        )

    def _why(self, name: str, row: Record) -> str:
        return f"{name} in {self._at(row)} runs over it"

    def _refuse(self, name: str, row: Record, outs: list[Tensor]) -> list[Value]:
        for tensor in tensors_of([*row.args, *row.kwargs.values()]):
            value = self._value(tensor)
            if value.layers:
                self.unknown.setdefault(name, self._at(row))
            for layer in value.layers:
                self.labels.freeze(layer, f"no rule for {name} in {self._at(row)}")
        return [Value(tuple(o.shape), []) for o in outs]

    # -- families ----------------------------------------------------------------------------------------------

    def _pointwise(self, row: Record, shape: tuple[int, ...]) -> Value:
        operands = [self._value(a) for a in tensors_of([*row.args, *row.kwargs.values()])]
        operands = [o for o in operands if len(o.shape) <= len(shape)]
        lifted = [(o, [_lift(layer, len(shape)) for layer in o.layers]) for o in operands]
        found = self.labels.combine(lifted, shape, f"it meets numbers that stay in {self._at(row)}")
        found.uniform = bool(operands) and all(o.uniform for o in operands)
        self.literal |= bool(found.layers) and any(o.uniform and max(o.shape, default=1) > 1 for o in operands)
        return found

    def _move(self, name: str, row: Record, outs: list[Tensor]) -> list[Value]:
        x = self._value(row.args[0])
        found = [Value(tuple(o.shape), [], x.constant, x.uniform) for o in outs]
        for layer in x.layers:
            full = layer.expand(x.shape)
            moved = full.reshape(row.args[1]) if name in VIEWS else row.func(full, *row.args[1:], **row.kwargs)
            parts = [compress(m) for m in (moved if isinstance(moved, tuple | list) else [moved])]
            for value, part in zip(found, parts, strict=True):
                if varying(part):
                    value.layers.append(part)
                    self.labels.rectangle(part)
            equal = len(parts) > 1 and name != "unbind" and len({p.shape for p in parts}) == 1 and varying(parts[0])
            if equal and any(not torch.equal(p, parts[0]) for p in parts):
                self.labels.balance(parts)
            if name in LITERAL and any(_sizes(p) != _sizes(layer) for p in parts) and not x.constant:
                self.literal = True
        return found

    def _pinned(self, x: Value, dims: Sequence[int], why: str, shape: tuple[int, ...] | None = None) -> Value:
        layers = [self.labels.pin(layer, dims, why) for layer in x.layers]
        return Value(shape or x.shape, [layer for layer in layers if layer is not None], x.constant)

    def _spatial(self, row: Record, shape: tuple[int, ...]) -> Value:
        x = self._value(row.args[0])
        kept = len(x.shape) - (1 if "1d" in str(row.func) else 3 if "3d" in str(row.func) else 2)
        return self._pinned(x, range(kept, len(x.shape)), self._why("pooling", row), shape)

    def _reduce(self, name: str, row: Record, shape: tuple[int, ...]) -> Value:
        x = self._value(row.args[0])
        rank = len(x.shape)
        given = [a for a in (*row.args[1:], row.kwargs.get("dim")) if isinstance(a, int | list | tuple)]
        given = [a for a in given if not isinstance(a, bool)]
        given = given[1:] if name in ("norm", "linalg_vector_norm") and len(given) > 1 else given
        dims = given[0] if given else list(range(rank))
        dims = [d % rank for d in ([dims] if isinstance(dims, int) else dims)] or list(range(rank))
        if name == "mean":
            x = self._counted(x, dims, row, "rms")
        x = self._pinned(x, dims, self._why(name, row))
        keep = len(shape) == rank
        layers = x.layers if keep else [_drop(layer, dims) for layer in x.layers]
        return Value(shape, layers, x.constant)

    def _counted(self, x: Value, dims: Sequence[int], row: Record, kind: str) -> Value:
        """A norm over channels counts them: it stays what it is if its module is one that can be told of how many."""
        if not counts(self.modules.get(row.module), kind):
            return x
        left = []
        for layer in x.layers:
            if varying(layer) and set(varying(layer)) <= set(dims):
                self.labels.counted.append((layer.reshape(-1), row.module))
            else:
                left.append(layer)
        return Value(x.shape, left, x.constant)

    def contract(self, operands: Sequence[tuple[Value, str]], out: str, row: Record, shape: tuple[int, ...]) -> Value:
        """The labels of a sum of products, written as in einsum."""
        letters = sorted({c for _, subs in operands for c in subs} | set(out))
        why = f"it meets numbers that stay in {self._at(row)}"
        sizes = {c: n for value, subs in operands for c, n in zip(subs, value.shape, strict=True)}
        whole = tuple(sizes.get(c, 1) for c in letters)
        spread: list[tuple[Value, list[Tensor]]] = []
        for value, subs in operands:
            seen = tuple(sizes[c] if c in subs else 1 for c in letters)
            layers = [_arrange(y, subs, letters) for y in value.layers]
            spread.append((Value(seen, [], value.constant), layers))
            summed = [i for i, c in enumerate(letters) if c not in out]
            if value.constant:
                self.labels.read += [y.reshape(-1) for y in layers if set(varying(y)) & set(summed)]
        product = self.labels.combine(spread, whole, why)
        gone = [i for i, c in enumerate(letters) if c not in out]
        layers = []
        for layer in product.layers:
            summed = [d for d in varying(layer) if d in gone]
            rest = [d for d in varying(layer) if d not in gone]
            if summed and not rest:
                continue
            if summed:
                first = layer
                for d in summed:
                    first = first.narrow(d, 0, 1)
                self.labels.unify(layer, first)
                layer = first
            shared = [i for i, c in enumerate(letters) if c in out and all(c in subs for _, subs in operands)]
            if set(varying(layer)) & set(shared) and not any(value.constant for value, _ in operands):
                self.labels.heads.append(layer.reshape(-1))
            layers.append(_arrange_back(layer, letters, out))
        return Value(shape, layers, product.constant)

    # -- contractions ------------------------------------------------------------------------------------------

    def _op_mm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        a, b = map(self._value, row.args[:2])
        return [self.contract([(a, "ij"), (b, "jk")], "ik", row, tuple(outs[0].shape))]

    def _op_bmm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        a, b = map(self._value, row.args[:2])
        return [self.contract([(a, "bij"), (b, "bjk")], "bik", row, tuple(outs[0].shape))]

    def _op_mv(self, row: Record, outs: list[Tensor]) -> list[Value]:
        a, b = map(self._value, row.args[:2])
        return [self.contract([(a, "ij"), (b, "j")], "i", row, tuple(outs[0].shape))]

    def _op_dot(self, row: Record, outs: list[Tensor]) -> list[Value]:
        a, b = map(self._value, row.args[:2])
        return [self.contract([(a, "i"), (b, "i")], "", row, tuple(outs[0].shape))]

    def _op_addmm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        bias, a, b = map(self._value, row.args[:3])
        shape = tuple(outs[0].shape)
        return [self._plus(self.contract([(a, "ij"), (b, "jk")], "ik", row, shape), bias, row)]

    def _op_baddbmm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        bias, a, b = map(self._value, row.args[:3])
        shape = tuple(outs[0].shape)
        return [self._plus(self.contract([(a, "bij"), (b, "bjk")], "bik", row, shape), bias, row)]

    def _op_linear(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, w, *rest = map(self._value, row.args)
        lead = "abcdefg"[: len(x.shape) - 1]
        found = self.contract([(x, f"{lead}i"), (w, "oi")], f"{lead}o", row, tuple(outs[0].shape))
        return [self._plus(found, rest[0], row) if rest else found]

    def _plus(self, x: Value, bias: Value, row: Record) -> Value:
        rank = len(x.shape)
        lifted = [(v, [_lift(layer, rank) for layer in v.layers]) for v in (x, bias)]
        return self.labels.combine(lifted, x.shape, f"it meets numbers that stay in {self._at(row)}")

    def _attention(self, row: Record, outs: list[Tensor]) -> list[Value]:
        q, k, v = map(self._value, row.args[:3])
        if len(q.shape) != 4:
            return self._refuse("attention without a dimension of heads", row, outs)
        k, v = (_repeated(x, q.shape[1]) for x in (k, v))
        scores = self.contract([(q, "bhtd"), (k, "bhsd")], "bhts", row, (*q.shape[:3], k.shape[2]))
        mask = next((a for a in (*row.args[3:], row.kwargs.get("attn_mask")) if isinstance(a, Tensor)), None)
        if mask is not None and self._value(mask).layers:
            scores = self._plus(scores, self._value(mask), row)
        scores = self._pinned(scores, [3], self._why("softmax", row))
        first = self.contract([(scores, "bhts"), (v, "bhsd")], "bhtd", row, tuple(outs[0].shape))
        return [first, *(Value(tuple(o.shape), []) for o in outs[1:])]

    def _op_convolution(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, w, b = map(self._value, row.args[:3])
        transposed, groups, rank = row.args[6], row.args[8], len(x.shape)
        why = self._why("the kernel", row)
        x = self._pinned(x, range(2, rank), why)
        for layer in w.layers:
            if varying(layer) and min(varying(layer)) >= 2:
                self.labels.freeze(layer, "kernel positions stay")
        shape, ones = tuple(outs[0].shape), (1,) * (rank - 2)
        flat = Value(x.shape[:2], [layer.flatten(1) for layer in x.layers], x.constant)
        rows = [layer.flatten(1) for layer in w.layers if varying(layer) and min(varying(layer)) < 2]
        if any(layer.shape[1] > 1 and layer.shape[0] > 1 for layer in rows) or any(
            math.prod(layer.shape[2:]) > 1 for layer in w.layers if layer.shape[0] > 1 or layer.shape[1] > 1
        ):
            return self._refuse("a kernel whose channels are mixed", row, outs)
        kernel = Value(w.shape[:2], rows, w.constant)
        if groups == 1:
            found = self.contract([(flat, "ni"), (kernel, "io" if transposed else "oi")], "no", row, shape[:2])
        elif transposed:
            return self._refuse("a transposed convolution in groups", row, outs)
        else:
            found = self._grouped(flat, kernel, groups, shape[:2], row)
        bias = Value((1, *b.shape), [layer[None] for layer in b.layers], True)
        found = self._plus(found, bias, row) if row.args[2] is not None else found
        return [Value(shape, [layer.reshape(*layer.shape, *ones) for layer in found.layers], found.constant)]

    def _grouped(self, x: Value, w: Value, groups: int, shape: tuple[int, ...], row: Record) -> Value:
        """A convolution in groups: the channels that enter and leave one group live or die together."""
        outputs = [layer.reshape(groups, -1) for layer in w.layers if layer.shape[0] > 1]
        for layer in w.layers:
            if layer.shape[1] > 1:
                self.labels.freeze(layer, "the width of a group of a convolution stays")
        inputs = [layer.reshape(groups, -1) for layer in x.layers if layer.shape[1] > 1]
        if not inputs:
            for layer in outputs:
                self.labels.freeze(layer, self._why("a convolution in groups", row))
            return Value(shape, [])
        for layer in outputs[:1]:
            self.labels.unify(layer, layer[:, :1])
            self.labels.unify(inputs[0], inputs[0][:, :1])
            self.labels.unify(inputs[0][:, :1], layer[:, :1])
        return Value(shape, [layer.reshape(1, -1) for layer in outputs])

    def _op_embedding(self, row: Record, outs: list[Tensor]) -> list[Value]:
        w, shape = self._value(row.args[0]), tuple(outs[0].shape)
        w = self._pinned(w, [0], "every entry of an embedding may be looked up")
        constant = w.constant and self._value(row.args[1]).constant
        return [Value(shape, [_lift(layer, len(shape)) for layer in w.layers], constant)]

    # -- norms -------------------------------------------------------------------------------------------------

    def _op_as_strided(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, out = row.args[0], outs[0]
        formats = [torch.contiguous_format, *([torch.channels_last] if out.dim() == 4 else [])]
        plain = [torch.empty(out.shape, device="meta").to(memory_format=f).stride() for f in formats]
        large = [d for d, n in enumerate(out.shape) if n > 1]
        ordinary = any(all(out.stride(d) == strides[d] for d in large) for strides in plain)
        same = x.shape == out.shape and out.storage_offset() == x.storage_offset() and ordinary
        return [self._value(x)] if same else self._refuse("as_strided", row, outs)

    def _op_native_batch_norm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, whole = self._value(row.args[0]), len(outs[0].shape)
        vectors = [self._buffer(a) for a in row.args[1:5] if isinstance(a, Tensor)]
        operands = [(x, x.layers)]
        for vector in vectors:
            sizes = (1, -1, *(1,) * (whole - 2))
            seen = Value(tuple(torch.empty(vector.shape, device="meta").reshape(sizes).shape), [], True)
            operands.append((seen, [layer.reshape(sizes) for layer in vector.layers]))
        found = self.labels.combine(operands, x.shape, self._why("a batch norm", row))
        found.constant = x.constant
        return [found, *(Value(tuple(o.shape), []) for o in outs[1:])]

    _op__native_batch_norm_legit_no_training = _op_native_batch_norm
    _op_cudnn_batch_norm = _op_native_batch_norm
    _op_batch_norm = _op_native_batch_norm

    def _op_native_layer_norm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        return self._normed(row, outs, len(row.args[1]), [a for a in row.args[2:4] if isinstance(a, Tensor)], "layer")

    def _op__fused_rms_norm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        return self._normed(row, outs, len(row.args[1]), [a for a in row.args[2:3] if isinstance(a, Tensor)], "rms")

    _op_rms_norm = _op__fused_rms_norm

    def _normed(self, row: Record, outs: list[Tensor], last: int, affine: list[Tensor], kind: str) -> list[Value]:
        x = self._value(row.args[0])
        rank = len(x.shape)
        dims = range(rank - last, rank)
        left = self._counted(x, dims, row, kind) if last == 1 else x
        kept = [layer for layer in x.layers if all(layer is not other for other in left.layers)]
        left = self._pinned(left, dims, self._why(f"{kind} norm", row))
        x = Value(x.shape, [*kept, *left.layers], x.constant)
        for tensor in affine:
            x = self._plus(x, self._value(tensor), row)
        return [x, *(Value(tuple(o.shape), []) for o in outs[1:])]

    def _op_native_group_norm(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, groups = self._value(row.args[0]), row.args[6]
        x = self._pinned(x, [d for d in range(len(x.shape)) if d != 1], self._why("a group norm", row))
        self.literal = True
        for layer in x.layers:
            rows = layer.reshape(groups, -1)
            self.labels.unify(rows, rows[:, :1])
        for tensor in row.args[1:3]:
            if isinstance(tensor, Tensor):
                vector = self._value(tensor)
                sizes = (1, -1, *(1,) * (len(x.shape) - 2))
                seen = Value(tuple(torch.empty(vector.shape, device="meta").reshape(sizes).shape), [], True)
                lifted = [layer.reshape(sizes) for layer in vector.layers]
                x = self.labels.combine([(x, x.layers), (seen, lifted)], x.shape, self._why("a group norm", row))
        return [x, *(Value(tuple(o.shape), []) for o in outs[1:])]

    def _op__weight_norm_interface(self, row: Record, outs: list[Tensor]) -> list[Value]:
        v, g, dim = self._value(row.args[0]), self._value(row.args[1]), row.args[2]
        other = [d for d in range(len(v.shape)) if d != dim]
        v = self._pinned(v, other, self._why("a weight norm", row))
        return [self._plus(v, g, row), *(Value(tuple(o.shape), []) for o in outs[1:])]

    # -- indices -----------------------------------------------------------------------------------------------

    def _op_cat(self, row: Record, outs: list[Tensor]) -> list[Value]:
        tensors, shape = row.args[0], tuple(outs[0].shape)
        dim = _dim(row) % len(shape)
        return [self._joined([self._value(t) for t in tensors if t.numel() or t.dim() > 1], dim, shape, row)]

    def _op_stack(self, row: Record, outs: list[Tensor]) -> list[Value]:
        shape = tuple(outs[0].shape)
        dim = _dim(row) % len(shape)
        given = [self._value(t) for t in row.args[0]]
        lifted = [
            Value((*v.shape[:dim], 1, *v.shape[dim:]), [y.unsqueeze(dim) for y in v.layers], v.constant) for v in given
        ]
        return [self._joined(lifted, dim, shape, row)]

    def _joined(self, parts: list[Value], dim: int, shape: tuple[int, ...], row: Record) -> Value:
        """Side by side along `dim`: there labels are put side by side, elsewhere they must agree."""
        across = []
        for v in parts:
            sizes = (*v.shape[:dim], 1, *v.shape[dim + 1 :])
            across.append((Value(sizes, [], v.constant), [y for y in v.layers if y.shape[dim] == 1]))
        result = self.labels.combine(across, shape, f"it is put beside numbers that stay in {self._at(row)}")
        along = [[y for y in v.layers if y.shape[dim] > 1] for v in parts]
        if any(along):
            rank = len(shape)
            pieces = [a[0] if a else torch.full((1,) * rank, OUTSIDE) for a in along]
            others = [max(p.shape[d] for p in pieces) for d in range(rank)]
            pieces = [
                p.expand(*(v.shape[d] if d == dim else others[d] for d in range(rank)))
                for p, v in zip(pieces, parts, strict=True)
            ]
            layer = compress(torch.cat(pieces, dim))
            self.labels.rectangle(layer)
            result.layers.append(layer)
        return result

    def _op_index(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x, indices = self._value(row.args[0]), row.args[1]
        at = [d for d, i in enumerate(indices) if i is not None]
        x = self._pinned(x, at, self._why("indexing", row))
        zeros = [None if i is None else torch.zeros(i.shape, dtype=torch.long) for i in indices]
        if any(i is not None and i.dtype == torch.bool for i in indices):
            return self._refuse("indexing by a mask", row, outs) if x.layers else [Value(tuple(outs[0].shape), [])]
        layers = [compress(row.func(layer.expand(x.shape), zeros)) for layer in x.layers]
        return [Value(tuple(outs[0].shape), layers, x.constant)]

    def _op_index_select(self, row: Record, outs: list[Tensor]) -> list[Value]:
        x = self._pinned(self._value(row.args[0]), [row.args[1] % row.args[0].dim()], self._why("indexing", row))
        return [Value(tuple(outs[0].shape), x.layers, x.constant)]

    def _op_gather(self, row: Record, outs: list[Tensor]) -> list[Value]:
        return self._op_index_select(row, outs)

    def _op_masked_fill(self, row: Record, outs: list[Tensor]) -> list[Value]:
        return [self._pointwise(row, tuple(outs[0].shape))]


def _dim(row: Record) -> int:
    """The dimension that tensors are put side by side along."""
    return next(iter(row.args[1:]), row.kwargs.get("dim", 0))


def _sizes(layer: Tensor) -> list[int]:
    return [n for n in layer.shape if n > 1]


def _lift(layer: Tensor, rank: int) -> Tensor:
    """Add dimensions in front, as broadcasting does."""
    return layer.reshape(*(1,) * (rank - layer.dim()), *layer.shape)


def _drop(layer: Tensor, dims: Sequence[int]) -> Tensor:
    """Take away dimensions along which labels do not differ."""
    return layer.reshape([n for d, n in enumerate(layer.shape) if d not in dims])


def _arrange(layer: Tensor, subs: str, letters: Sequence[str]) -> Tensor:
    """Give each letter a dimension of its own."""
    order = sorted(range(len(subs)), key=lambda i: letters.index(subs[i]))
    sizes = {subs[i]: layer.shape[i] for i in order}
    return layer.permute(order).reshape([sizes.get(c, 1) for c in letters])


def _arrange_back(layer: Tensor, letters: Sequence[str], out: str) -> Tensor:
    """The dimensions of `out`, in its order; labels differ along no other."""
    keep = [c for c in letters if c in out]
    layer = layer.reshape([n for c, n in zip(letters, layer.shape, strict=True) if c in out])
    return layer.permute([keep.index(c) for c in out])


def _repeated(x: Value, heads: int) -> Value:
    """Keys or values of fewer heads, each for several queries in a row."""
    n = heads // x.shape[1]
    shape = (x.shape[0], heads, *x.shape[2:])
    return Value(shape, [y.repeat_interleave(n, 1) if y.shape[1] > 1 else y for y in x.layers], x.constant)
