"""The index of a file: names, shapes and stream lengths as deflated JSON, small and checked.

What this file does not do: the streams (`sparse.py`), or the container (`encoding.py`).
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError
from .program import Program

INDEX_LIMIT = 1 << 22  # bytes of the index when inflated; thousands of tensors fit
DENSE_LIMIT = 1 << 28  # weights that a file of any size may stand for, and then 4,096 for each of its bytes
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Index:
    """What a reader needs to know before the streams.

    Attributes:
        weights: name -> (shape, weights alive, `Packed.row`), in the order of the file.
        rest: name -> shape, in the order of the file.
        bits: 16 or 32, of the numbers in the rest.
        program: the network's operations.
        folds, ties, unused: as in `Archive`.
    """

    weights: dict[str, tuple[Shape, int, list[int]]]
    rest: dict[str, Shape]
    bits: int
    program: Program | None = None
    folds: dict[str, str] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def deflated(self) -> NDArray[np.uint8]:
        """Return the index as it stands in the file."""
        index: dict[str, Any] = {
            "weights": [[n, list(s), alive, *row] for n, (s, alive, row) in self.weights.items()],
            "rest": [[n, list(s)] for n, s in self.rest.items()],
            "bits": self.bits,
        }
        if self.folds:
            index["folds"] = [self.folds.get(n, 0) for n in self.weights]
        if self.ties:
            index["ties"] = self.ties
        if self.unused:
            index["unused"] = self.unused
        if self.program is not None:
            index["program"] = _short(self.program.to_json(), [*self.weights, *self.rest])
        text = json.dumps(index, separators=(",", ":")).encode()
        return np.frombuffer(zlib.compress(text, 9), np.uint8)

    @classmethod
    def parse(cls, deflated: NDArray[np.uint8]) -> Index:
        """Undo `deflated`.

        Raises:
            CheckpointError: what it says is no index.
        """
        try:
            index = json.loads(inflate(deflated, INDEX_LIMIT))
            weights = {_text(n): (_shape(s), _whole(a), [_whole(v, -1) for v in r]) for n, s, a, *r in index["weights"]}
            rest = {_text(n): _shape(s) for n, s in index["rest"]}
            if len(index["weights"]) + len(index["rest"]) != len({*weights, *rest}):
                raise ValueError("a name occurs twice")
            program = None
            if "program" in index:
                program = Program.from_json(_long(index["program"], [*weights, *rest]))
            prefixes = index.get("folds", [0] * len(weights))
            folds = {n: _text(p) for n, p in zip(weights, prefixes, strict=True) if p != 0}
            ties = {_text(k): _text(v) for k, v in index.get("ties", {}).items()}
            unused = tuple(_text(n) for n in index.get("unused", ()))
            return cls(weights, rest, _whole(index["bits"]), program, folds, ties, unused)
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise CheckpointError(f"the file is damaged: its index cannot be read ({error})") from error

    def check(self, length: int) -> None:
        """Raise CheckpointError where its parts do not fit together, or stand for more than `length` bytes can hold."""
        shapes = {n: s for n, (s, _, _) in self.weights.items()} | self.rest
        if sum(math.prod(s) for s in shapes.values()) > DENSE_LIMIT + 4096 * length:
            raise CheckpointError(f"the file is damaged: {length:,} bytes cannot hold that many weights")
        wrong = [n for n, (s, alive, _) in self.weights.items() if alive > math.prod(s)]
        wrong += [n for n, where in self.ties.items() if n in shapes or where not in shapes]
        if self.program is not None:
            known = shapes | {n: shapes[where] for n, where in self.ties.items() if where in shapes}
            wrong += [n for n, shape in self.program.needs().items() if known.get(n) != shape]
        if wrong or self.bits not in (16, 32):
            raise CheckpointError(
                f"the file is damaged: its index contradicts itself at {', '.join(wrong[:3]) or 'bits'}"
            )


def _short(rows: list[Any], names: list[str]) -> list[Any]:
    """A program without what goes without saying: inputs that are the result just before, and names by number."""
    short = rows[:1]
    for k, (kind, fields) in enumerate(rows[1:]):
        fields = {f: v for f, v in fields.items() if f != "inputs" or v != [k]}
        fields |= {f: names.index(fields[f]) for f in ("weight", "bias") if fields.get(f) in names}
        short.append([kind, fields])
    return short


def _long(rows: list[Any], names: list[str]) -> list[Any]:
    """Undo `_short`."""
    long = rows[:1]
    for k, (kind, fields) in enumerate(rows[1:]):
        named = {f: names[_whole(fields[f])] for f in ("weight", "bias") if isinstance(fields.get(f), int)}
        long.append([kind, {"inputs": [k], **fields, **named}])
    return long


def inflate(deflated: NDArray[np.uint8], limit: int) -> bytes:
    """Inflate to at most `limit` bytes.

    Raises:
        ValueError: more than that, or no whole zlib stream.
    """
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(deflated.tobytes(), limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) > limit or not inflater.eof or inflater.unused_data:
        raise ValueError("a deflated part is longer or shorter than it may be")
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _whole(value: Any, sign: int = 1) -> int:
    """A whole number below 2^40; negative ones only where `sign` is -1."""
    if type(value) is not int or not (0 if sign > 0 else -1 << 40) <= value < 1 << 40:
        raise ValueError(f"{value!r} is no whole number of the right size")
    return value


def _shape(value: Any) -> Shape:
    if not isinstance(value, list) or len(value) > 8:
        raise ValueError(f"{value!r} is no shape")
    return tuple(_whole(n) for n in value)
