"""C99 source of a network: constants that hold the weights in the file's own encoding, and one call per operation.

The functions that are called are the files in `csrc`; those that the program needs are put in front, so that the
source stands alone.

What this file does not do: write to disk (`c.py`), or place values in memory (`fused.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ResproutError
from ..encoding import Archive
from ..plan import INPUT, OUTPUT
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
    Shape,
    Shortcut,
    Softmax,
)
from ..rice import Rice
from ..sparse import Packed, Sparse, pack
from .fused import ConvAdd, ConvPool, Fused, fused

CORE = Path(__file__).with_name("csrc")
WIDTH = 116
TAKEN = {"board", "main", "semihosting", "startup", "stdint", "stdio", "test"}
LARGEST = 3.402823466e38  # in place of no cap at all
INCLUDE = re.compile(r'^#include "(.+)"\n', re.M)
GUARD = re.compile(r"^#(?:ifndef|define) \w+_H\n|^#endif\n\Z", re.M)


@dataclass(frozen=True)
class Source:
    """The text of a network in C, and what it takes.

    Attributes:
        header: of `NAME.h`.
        code: of `NAME.c`.
        arena_bytes: static memory for the values between operations.
        weight_bytes: constant arrays, each rounded up to words.
    """

    header: str
    code: str
    arena_bytes: int
    weight_bytes: int


def source(archive: Archive, name: str = "net") -> Source:
    """Return the network of a file as C99.

    Raises:
        ResproutError: a file without a program, or a name that C cannot have.
    """
    if archive.program is None:
        raise ResproutError("the file says which weights there are, not how they are used: save it with example=...")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in TAKEN:
        raise ResproutError(
            f"name must be lower-case letters, digits and _, beginning with a letter, and not the name of another file "
            f"({', '.join(sorted(TAKEN))}), got {name!r}"
        )
    archive.program.check(archive.tensors())
    whole, data = fused(archive.program), _Data(archive)
    calls = _Calls(whole, data)
    lines = [calls.call(k, op) for k, op in enumerate(whole.program.ops)]
    arena = 4 * whole.size
    text = [
        f"/* {name}: made by `resprout export --to c`; do not edit. */",
        f'#include "{name}.h"\n',
        _core(sorted(calls.used), data.kinds),
        "/* The weights, as in the file. */",
        *data.lines,
        "",
        *calls.constants,
        *_arena(whole, name.upper()),
        _run(name, whole, lines),
    ]
    return Source(_header(name, archive.program, arena, data.bytes), "\n".join(text), arena, data.bytes)


# -- data ----------------------------------------------------------------------------------------------------------


class _Data:
    """Constant arrays, each written once; `kinds` are the files of `csrc` that can read them."""

    def __init__(self, archive: Archive):
        self.archive = archive
        self.lines: list[str] = []
        self.bytes = 0
        self.known: dict[str, str] = {}
        self.names: set[str] = set()
        self.tensors = archive.tensors()
        self.half = _half(archive)
        integers = archive.values not in ("fp32", "fp16")
        self.kinds = {
            "values.h": f"values_{'integers' if integers else archive.values}.h",
            "vector.h": f"vector_{'fp16' if self.half else 'fp32'}.h",
        }

    def sparse(self, name: str) -> str:
        """The initialiser of a `struct sparse`."""
        name = self.archive.ties.get(name, name)
        if name not in self.known:
            tensor = _weight(self.archive, name)
            self.lines.append(f"/* {_tame(name)}: {_by(tensor.shape)}, {tensor.alive} of {tensor.size} */")
            packed = pack(tensor)
            parts = [str(tensor.alive), self._rice(f"{name}.gaps", packed.places)]
            parts.append(self._values(name, packed, tensor.codes))
            self.known[name] = "\n".join(["{", *(f"        {part}," for part in parts), "    }"])
        return self.known[name]

    def vector(self, name: str | None) -> str:
        """The initialiser of a `struct vector`."""
        if name is None:
            return "{0}"
        name = self.archive.ties.get(name, name)
        if name not in self.known:
            numbers = self.tensors[name].reshape(-1)
            self.known[name] = f"{{{self._floats(name, numbers.half() if self.half else numbers)}}}"
        return self.known[name]

    def _values(self, name: str, packed: Packed, codes: Tensor) -> str:
        if not isinstance(packed.values, Rice):
            return f"{{{self._floats(f'{name}.values', codes)}}}"
        values, scales = self._rice(f"{name}.values", packed.values), packed.scales
        scaling = "{0}" if scales is None else self._rice(f"{name}.scales", scales)
        return f"{{{values}, {scaling}, {packed.centre}, {packed.base}}}"

    def _rice(self, name: str, code: Rice) -> str:
        if code.k > 31:
            raise ResproutError(f"{name!r} has gaps of over 2^31 weights, more than a microcontroller can count")
        unary = self._array(f"{name}.unary", "uint8_t", [str(b) for b in code.unary.tolist()], 1)
        return f"{{{unary}, {self._array(f'{name}.low', 'uint8_t', [str(b) for b in code.low.tolist()], 1)}, {code.k}}}"

    def _floats(self, name: str, numbers: Tensor) -> str:
        if numbers.dtype == torch.float16:
            return self._array(name, "uint16_t", [f"{b:#x}" for b in numbers.numpy().view(np.uint16).tolist()], 2)
        return self._array(name, "float", [literal(x) for x in numbers.tolist()], 4)

    def _array(self, name: str, kind: str, numbers: Sequence[str], width: int) -> str:
        """Write an array, and return its name in C, or the null pointer if it is empty."""
        if not numbers:
            return "0"
        word = stem = _tame(f"w_{name}").replace(".", "_")
        while word in self.names:  # "a.b" and "a_b" are two tensors
            word = f"{stem}_{len(self.names)}"
        self.names.add(word)
        self.lines.append(array(f"static const {kind} {word}[{len(numbers)}]", numbers))
        self.bytes += _whole_words(width * len(numbers))
        return word


def _tame(name: str) -> str:
    """A tensor's name without anything that C could take for code; a file can come from anyone."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)


def weight_bytes(archive: Archive) -> int:
    """Return the `Source.weight_bytes` of a file with a program, without making the source."""
    assert archive.program is not None
    names = {archive.ties.get(n, n) for n in archive.program.needs()}
    sparse = {op.weight for op in archive.program.ops if isinstance(op, Conv | Linear)}
    sizes = [4 // (1 + _half(archive)) * archive.rest[n].numel() for n in names if n in archive.rest]
    for name in {archive.ties.get(n, n) for n in sparse}:
        packed = pack(_weight(archive, name))
        for part in (packed.places, packed.values, packed.scales):
            if isinstance(part, Rice):
                sizes += [part.unary_bytes, part.low_bytes]
            elif part is not None:
                sizes.append(part.nbytes)
    return sum(_whole_words(size) for size in sizes)


def _weight(archive: Archive, name: str) -> Sparse:
    if name not in archive.weights:
        raise ResproutError(f"{name!r} is stored among biases and norms; give it a mask, so that it is a weight")
    return archive.weights[name]


def _half(archive: Archive) -> bool:
    """Whether half precision holds all biases and norms exactly, as in most files."""
    return all(torch.equal(t.half().float(), t) for t in archive.rest.values())


def _whole_words(size: int) -> int:
    """What an array takes where the compiler aligns each to four bytes."""
    return (size + 3) // 4 * 4


def array(declaration: str, numbers: Sequence[str], row: int | None = None) -> str:
    """Return an array with its numbers, in lines of readable length and, where `row` is given, in rows of so many."""
    lines = []
    for first in range(0, len(numbers), row or len(numbers)):
        line = "   " if row is None else "    {"
        for number in numbers[first : first + (row or len(numbers))]:
            if len(line) + len(number) + 2 > WIDTH:
                lines.append(line)
                line = "   "
            line += f" {number},"
        lines.append(line if row is None else line + " },")
    return "\n".join([f"{declaration} = {{", *lines, "};"])


def literal(x: float) -> str:
    """A float in C, exact; for infinity the largest there is."""
    text = f"{min(x, LARGEST):.9g}"
    return text + ("f" if set(text) & set(".e") else ".0f")


# -- code ----------------------------------------------------------------------------------------------------------


@dataclass
class _Calls:
    """The call of each operation, the constants that it takes, and the files of `csrc` that have the functions."""

    whole: Fused
    data: _Data
    constants: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def call(self, k: int, op: Op) -> str:
        """The lines of operation `k`; nothing for one that only gives another name."""
        shapes, out = self.whole.program.shapes, self._place(k + 1)
        shape, given, places = shapes[k + 1], [shapes[i] for i in op.inputs], [self._place(i) for i in op.inputs]
        match op:
            case ConvPool():
                between = Conv.shape(op, given[0])
                self._constant("conv", k, _fields(op, given[0], between, self.data))
                self._constant("pool", k, _fields(op.pool, between, shape, self.data))
                self.used.add("conv_pool")
                return (
                    f"    conv_pool(&conv_{k + 1}, &pool_{k + 1}, {out}, {places[0]}, arena + {self.whole.plan.size});"
                )
            case ConvAdd():
                self._constant("conv", k, _fields(op, given[0], shape, self.data))
                self.used.add("conv_add")
                return f"    conv_add(&conv_{k + 1}, {out}, {places[0]}, {places[1]});"
            case Conv() | Linear() | Scale() | Pool() | Shortcut():
                self._constant(op.name, k, _fields(op, given[0], shape, self.data))
                self.used.add(op.name)
                return f"    {op.name}(&{op.name}_{k + 1}, {out}, {places[0]});"
            case Add():
                self.used.add("add")
                return f"    add({out}, {places[0]}, {places[1]}, {math.prod(shape)}, {_activation(op)});"
            case Softmax():
                self.used.add("softmax")
                return f"    softmax({out}, {places[0]}, {shape[0]});"
            case Activation():
                self.used.add("activate")
                moved = self._copies(out, places, given)
                return "\n".join([*moved, f"    activate({out}, {math.prod(shape)}, {_activation(op)});"])
            case Concat() | Flatten():
                return "\n".join(self._copies(out, places, given))
            case _:
                raise ResproutError(f"no C for operation {op.name!r}")

    def _copies(self, out: str, places: Sequence[str], shapes: Sequence[Shape]) -> list[str]:
        """Put values behind each other, those that do not lie there yet."""
        lines, at = [], 0
        for place, shape in zip(places, shapes, strict=True):
            if place != out or at:
                self.used.add("copy")
                lines.append(f"    copy({out}{f' + {at}' if at else ''}, {place}, {math.prod(shape)});")
            at += math.prod(shape)
        return lines

    def _constant(self, kind: str, k: int, fields: Sequence[str]) -> None:
        lines = [f"    {line}," for line in fields]
        self.constants += [f"static const struct {kind} {kind}_{k + 1} = {{", *lines, "};\n"]

    def _place(self, value: int) -> str:
        """Where a value lies, in C."""
        offset = self.whole.plan.offsets[value]
        return {INPUT: "input", OUTPUT: "output"}.get(offset, f"arena + {offset}" if offset else "arena")


def _fields(op: Op, given: Shape, result: Shape, data: _Data) -> list[str]:
    """The fields of an operation's struct, in lines."""
    match op:
        case Conv():
            fields = [f".weight = {data.sparse(op.weight)}", f".bias = {data.vector(op.bias)}"]
            fields += [_plane("in", given), _plane("out", result), _pair("kernel", op.kernel, "height", "width")]
            fields += [_pair("stride", op.stride), _pair("padding", op.padding), _pair("dilation", op.dilation)]
            fields += [f".groups = {op.groups}"]
        case Linear():
            fields = [f".weight = {data.sparse(op.weight)}", f".bias = {data.vector(op.bias)}"]
            fields += [f".in = {given[0]}, .out = {result[0]}"]
        case Scale():
            fields = [f".weight = {data.vector(op.weight)}", f".bias = {data.vector(op.bias)}"]
            fields += [f".channels = {given[0]}, .plane = {math.prod(given[1:])}"]
        case Pool():
            fields = [f".channels = {given[0]}", _pair("in", given[1:], "height", "width")]
            fields += [_pair("out", result[1:], "height", "width"), _pair("kernel", op.kernel, "height", "width")]
            fields += [_pair("stride", op.stride), _pair("padding", op.padding)]
            fields += [f".maximum = {op.maximum:d}, .counts_padding = {op.counts_padding:d}"]
        case Shortcut():
            plane = math.prod(result[1:])
            fields = [f".channels = {given[0]}, .height = {given[1]}, .width = {given[2]}", _pair("stride", op.stride)]
            fields += [f".before = {op.before * plane}, .after = {op.after * plane}"]
        case _:
            raise ResproutError(f"no C for operation {op.name!r}")
    if isinstance(op, Activated):
        fields.append(f".slope = {literal(op.slope)}, .cap = {literal(op.cap)}")
    return fields


def _plane(name: str, shape: Shape) -> str:
    return f".{name} = {shape[0]}, {_pair(name, shape[1:], 'height', 'width')}"


def _pair(name: str, pair: Sequence[int], first: str = "y", second: str = "x") -> str:
    return f".{name}_{first} = {pair[0]}, .{name}_{second} = {pair[1]}"


def _activation(op: Activated) -> str:
    return f"{literal(op.slope)}, {literal(op.cap)}"


def _core(used: Sequence[str], kinds: Mapping[str, str]) -> str:
    """The files of `csrc` that are needed, each once and after those that it includes."""
    texts: dict[str, str] = {}

    def visit(file: str) -> None:
        file = kinds.get(file, file)
        if file in texts:
            return
        text = (CORE / file).read_text(encoding="utf-8")
        for needed in INCLUDE.findall(text):
            visit(needed)
        text = GUARD.sub("", INCLUDE.sub("", text)).replace("#include <stdint.h>\n", "")
        texts.setdefault(file, text.rstrip() + "\n")

    for name in used:
        visit(f"{name}.h")
    return "\n".join(texts.values())


def _arena(whole: Fused, upper: str) -> list[str]:
    """The memory for the values; an array with a negative size does not compile."""
    if not whole.size:
        return []
    lines = [f"static float arena[{upper}_ARENA_BYTES / sizeof(float)];\n"]
    lines.append("/* The compiler checks that every value lies in it. */")
    values = zip(whole.plan.offsets, whole.program.shapes, strict=True)
    places = [(f"value_{v}", offset, math.prod(shape)) for v, (offset, shape) in enumerate(values)]
    for what, offset, count in [*places, ("channel", whole.plan.size, whole.scratch)]:
        if offset >= 0:
            fits = f"{offset} + {count} <= (int)(sizeof arena / sizeof *arena)"
            lines.append(f"typedef char {what}_fits[{fits} ? 1 : -1];")
    return [*lines, ""]


def _run(name: str, whole: Fused, lines: Sequence[str]) -> str:
    """The function that a user calls."""
    upper, program, shapes = name.upper(), whole.program, whole.program.shapes
    if not program.ops or whole.plan.offsets[-1] != OUTPUT:
        raise ResproutError("a program without operations has no C")
    comments = [
        f"    /* {op.name}: {', '.join(_by(shapes[i]) for i in op.inputs)} -> {_by(shape)} */\n{line}"
        for op, shape, line in zip(program.ops, shapes[1:], lines, strict=True)
        if line
    ]
    return "\n".join(
        [
            f"int {name}_run(const float *input, float *output)",
            "{",
            "    const uintptr_t from = (uintptr_t)input, to = (uintptr_t)output;",
            "    if (!input || !output)",
            "        return -1;",
            f"    if (from < to + {upper}_OUTPUT_SIZE * sizeof(float) && to < from + {upper}_INPUT_SIZE * sizeof(float))",
            "        return -2;",
            *comments,
            "    return 0;",
            "}",
            "",
        ]
    )


def _header(name: str, program: Program, arena: int, weights: int) -> str:
    upper = name.upper()
    return f"""/* {name}: made by `resprout export --to c`; do not edit. */
#ifndef {upper}_H
#define {upper}_H
#include <stdint.h>

#define {upper}_INPUT_SIZE {math.prod(program.input)} /* floats: {_by(program.input)} */
#define {upper}_OUTPUT_SIZE {math.prod(program.output)} /* floats: {_by(program.output)} */
#define {upper}_ARENA_BYTES {arena} /* of static memory, for what lies between the operations */
#define {upper}_WEIGHT_BYTES {weights} /* of constant arrays, in whole words */

#ifdef __cplusplus
extern "C" {{
#endif

/*
 * Runs the network on one input, channel by channel and row by row, as in PyTorch. It keeps nothing between calls, but
 * two calls must not run at the same time: they would share the static memory.
 *
 * Returns 0, -1 where a pointer is null, or -2 where input and output overlap.
 */
int {name}_run(const float *input, float *output);

#ifdef __cplusplus
}}
#endif
#endif
"""


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))
