"""One sparse weight tensor, and the bytes that it takes in a file.

The places of the alive weights are gaps, the values are float or integers, integers have a scale per output channel (the
first dimension). Gaps, integers and scales are Rice-coded (`rice.py`); docs/file-format.md says exactly how.

What this file does not do: files (`encoding.py`), or rounding (`quantise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import CheckpointError
from .rice import LARGEST_K, Numbers, Rice, decode, rice, sums

VALUES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "int8": torch.int8,
    "int4": torch.int8,
}
LARGEST = {"int8": 127, "int4": 7}
STEPS = 4  # scales are powers of the fourth root of two
EXPONENTS = range(-4 * 120, 4 * 126 + 1)  # those of normal float32 numbers, with room for the integer
LARGEST_WEIGHT = 2.0**120  # that integers are made of


@dataclass(frozen=True, eq=False)
class Sparse:
    """One weight tensor.

    Attributes:
        shape: of the dense tensor; its first dimension is the output channels.
        places: int64, flat row-major positions of the alive weights, ascending.
        codes: their values in float32 or float16, or int8 integers to be multiplied by the channel's scale.
        scales: float32, one per output channel (0 where none is alive), or None for floats.
    """

    shape: tuple[int, ...]
    places: Tensor
    codes: Tensor
    scales: Tensor | None = None

    @property
    def size(self) -> int:
        """Weights in all."""
        return math.prod(self.shape)

    @property
    def alive(self) -> int:
        """Weights that are alive."""
        return len(self.places)

    @property
    def width(self) -> int:
        """Weights per output channel."""
        return self.size // self.shape[0] if self.shape and self.shape[0] else max(self.size, 1)

    @property
    def entropy(self) -> float:
        """The least bytes for the places of so many weights alive, if any places were as likely as any others."""
        p = self.alive / max(self.size, 1)
        return 0.0 if p in (0, 1) else -self.size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8

    def values(self) -> Tensor:
        """Return the alive weights, float32."""
        values = self.codes.float()
        return values if self.scales is None else values * self.scales[self.places // self.width]

    def dense(self) -> Tensor:
        """Return the whole tensor, float32, dead weights zero."""
        whole = torch.zeros(self.size)
        whole[self.places] = self.values()
        return whole.view(self.shape)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor's streams, as they stand in the file.

    Attributes:
        places: the gaps: dead weights before each alive one.
        values: the folded integers (see `fold`), or raw little-endian floats.
        centre: the magnitude that folding starts from.
        scales: for each output channel with alive weights, its scale's exponent above `base`; None for floats.
        base: scale = 2 ** (-(base + exponent) / STEPS).
    """

    places: Rice
    values: Rice | NDArray[np.uint8]
    centre: int = 0
    scales: Rice | None = None
    base: int = 0

    @property
    def size(self) -> int:
        """Bytes of all streams."""
        scales = self.scales.size if self.scales else 0
        return self.places.size + self.values.size + scales

    def streams(self) -> NDArray[np.uint8]:
        """Return all bytes in the order of the file."""
        parts = (self.places, self.values, self.scales)
        flat = [[p] if isinstance(p, np.ndarray) else [p.unary, p.low] for p in parts if p is not None]
        return np.concatenate([stream for part in flat for stream in part])

    def row(self) -> list[int]:
        """Return the numbers that a reader needs besides name, shape and count."""
        row = [self.places.k, self.places.unary_bytes]
        if isinstance(self.values, Rice) and self.scales is not None:
            row += [self.values.k, self.values.unary_bytes, self.centre]
            row += [self.scales.k, self.scales.unary_bytes, self.base]
        return row


def pack(sparse: Sparse) -> Packed:
    """Return the streams of one tensor; packing them to bytes waits until they are asked for."""
    at = sparse.places.numpy()
    places = rice(np.diff(at, prepend=-1) - 1)
    if sparse.scales is None:
        return Packed(places, sparse.codes.numpy().view(np.uint8))
    centre, values = _best(sparse.codes.numpy())
    scale = sparse.scales.numpy()[channels(at, sparse.width)]
    exponents = np.rint(-STEPS * np.log2(scale.astype(np.float64))).astype(np.int64)
    base = int(exponents.min()) if len(exponents) else 0
    return Packed(places, values, centre, rice(exponents - base), base)


def unpack(
    shape: tuple[int, ...], alive: int, row: Sequence[int], data: NDArray[np.uint8], values: str
) -> tuple[Sparse, int]:
    """Return the tensor whose streams `data` begins with, and their bytes; `row` is that of `Packed`.

    Raises:
        CheckpointError: streams that do not fit each other or the shape.
    """
    size, taken = math.prod(shape), 0

    def take(length: int) -> NDArray[np.uint8]:
        nonlocal taken
        taken += length
        if length < 0 or taken > len(data):
            raise CheckpointError("the file is damaged: a tensor's streams are longer than they are")
        return data[taken - length : taken]

    def numbers(count: int, k: int, unary_bytes: int, limit: int) -> Numbers:
        if not 0 <= k <= LARGEST_K:
            raise CheckpointError(f"the file is damaged: a Rice parameter of {k}")
        return decode(take(unary_bytes), take((count * k + 7) // 8), count, k, limit)

    at = np.cumsum(numbers(alive, row[0], row[1], size) + 1) - 1
    if alive and at[-1] >= size:
        raise CheckpointError("the file is damaged: a place lies outside its tensor")
    places = torch.from_numpy(at)
    if values not in LARGEST:
        kind = np.dtype(f"<f{VALUES[values].itemsize}")
        codes = torch.from_numpy(take(alive * kind.itemsize).copy().view(kind))
        found = Sparse(shape, places, codes)
        fine = bool(torch.isfinite(codes).all())
    else:
        k, unary_bytes, centre = row[2:5]
        if not 0 <= centre <= LARGEST[values]:
            raise CheckpointError(f"the file is damaged: values centred at {centre}")
        codes = unfold(numbers(alive, k, unary_bytes, 4 * 127 + 1), centre)
        found = Sparse(shape, places, torch.from_numpy(codes.astype(np.int8)), torch.zeros(shape[0] if shape else 1))
        rows = channels(at, found.width)
        exponents = row[7] + numbers(len(rows), row[5], row[6], len(EXPONENTS))
        fine = all(int(e) in EXPONENTS for e in (exponents.min(initial=0), exponents.max(initial=0)))
        fine = fine and int(abs(codes).max(initial=0)) <= LARGEST[values]
        if fine and found.scales is not None:
            found.scales[torch.from_numpy(rows)] = torch.from_numpy(powers(exponents))
    if not fine:
        raise CheckpointError("the file is damaged: values or scales out of range")
    return found, taken


def channels(at: Numbers, width: int) -> Numbers:
    """Return the output channels that flat positions (ascending) lie in, each once."""
    rows = at // width
    return rows[np.diff(rows, prepend=-1) > 0]


def powers(exponents: Numbers) -> NDArray[np.float32]:
    """Return the scales 2 ** (-exponent / STEPS), rounded to float32 between 1 and 1/2 and then shifted."""
    roots = (2.0 ** (-np.arange(STEPS) / STEPS)).astype(np.float32)
    return np.ldexp(roots[exponents % STEPS], -(exponents // STEPS))


def fold(codes: NDArray[np.int8], centre: int) -> Numbers:
    """Return integers as numbers to be Rice-coded: magnitudes nearest to `centre` are smallest, the sign is bit 0.

    A magnitude m is first 2 (m - centre), or 2 (centre - m) - 1 where it is below.
    """
    return 2 * _zigzag(np.abs(codes.astype(np.int64)) - centre) + (codes < 0)


def unfold(numbers: Numbers, centre: int) -> Numbers:
    """Undo `fold`.

    Raises:
        CheckpointError: a magnitude below zero, or a zero with a sign.
    """
    distance = numbers >> 2
    magnitude = centre + np.where(numbers & 2, ~distance, distance)
    negative = (numbers & 1).astype(bool)
    if (magnitude < negative).any():
        raise CheckpointError("the file is damaged: a value that no integer has")
    return np.where(negative, -magnitude, magnitude)


def _zigzag(distance: Numbers) -> Numbers:
    return np.where(distance >= 0, 2 * distance, -2 * distance - 1)


def _best(codes: NDArray[np.int8]) -> tuple[int, Rice]:
    """The centre and the parameter that need the fewest bits, by trying all of them on a histogram."""
    if not len(codes):
        return 0, rice(np.zeros(0, np.int64))
    magnitudes = np.abs(codes.astype(np.int64))
    counts = np.bincount(magnitudes, minlength=2)
    tried = np.arange(len(counts))
    numbers = 2 * _zigzag(tried[None, :] - tried[:, None])
    bits = np.stack([sums(counts, numbers, k) for k in range(1, 10)])
    k, centre = np.unravel_index(bits.argmin(), bits.shape)
    low = len(codes) * (int(k) + 1)
    return int(centre), Rice(fold(codes, int(centre)), int(k) + 1, (int(bits[k, centre]) - low + 7) // 8)
