"""Golomb-Rice coding of whole numbers as two bit streams, so that numpy reads it in bulk and C in a few lines.

A number x with parameter k is its quotient x >> k and its k low bits. The unary stream has, for each number, as many
zero bits as its quotient says and then a one; the low stream has k bits for each number, the lowest first. Both fill
bytes from the lowest bit up and end with zero bits. Where all quotients are zero, the unary stream is left out.

What this file does not do: numbers below zero (fold them first), or 2^62 and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
LARGEST_K = 40


@dataclass(frozen=True, eq=False)
class Rice:
    """Numbers and the code for them; the streams are made when they are asked for.

    Attributes:
        numbers: none below zero.
        k: the parameter, in bits.
        unary_bytes: the length of the unary stream.
    """

    numbers: Numbers
    k: int
    unary_bytes: int

    @property
    def low_bytes(self) -> int:
        """The length of the low stream."""
        return _bytes(len(self.numbers) * self.k)

    @property
    def size(self) -> int:
        """Bytes of both streams."""
        return self.unary_bytes + self.low_bytes

    @cached_property
    def unary(self) -> Bytes:
        """The unary stream."""
        bits = np.zeros(8 * self.unary_bytes, np.uint8)
        if self.unary_bytes:
            bits[np.cumsum((self.numbers >> self.k) + 1) - 1] = 1
        return np.packbits(bits, bitorder="little")

    @cached_property
    def low(self) -> Bytes:
        """The low stream."""
        width = _width(self.k)
        whole = (self.numbers & ((1 << self.k) - 1)).astype(f"<u{width}").view(np.uint8).reshape(-1, width)
        return np.packbits(np.unpackbits(whole, axis=1, bitorder="little")[:, : self.k], bitorder="little")


def rice(numbers: Numbers) -> Rice:
    """Return the code with the parameter that needs the fewest bits."""
    count = len(numbers)
    if not count:
        return Rice(numbers, 0, 0)
    flat = int(numbers.max()).bit_length()  # here the quotients are gone

    def bits(k: int) -> int:
        return count + int((numbers >> k).sum()) + count * k

    k = max(0, min(flat, int(numbers.mean()).bit_length() - 1))
    here = bits(k)
    for step in (-1, 1):  # there is one valley
        while 0 <= k + step < flat and (there := bits(k + step)) < here:
            k, here = k + step, there
    return Rice(numbers, flat, 0) if count * flat <= here else Rice(numbers, k, _bytes(here - count * k))


def sums(counts: NDArray[np.int64], numbers: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the bits at parameter k of `counts[j]` numbers each of `numbers[i, j]`, for every row i."""
    quotients = numbers >> k
    unary = quotients @ counts
    return k * counts.sum() + np.where(unary == 0, 0, unary + counts.sum())


def decode(unary: Bytes, low: Bytes, count: int, k: int, limit: int) -> Numbers:
    """Return `count` numbers from their two streams.

    Raises:
        CheckpointError: streams of another length than that, bits where none should be, or a number above `limit`.
    """
    if not 0 <= k <= LARGEST_K or len(low) != _bytes(count * k):
        raise CheckpointError(f"the file is damaged: {count} numbers of {k} low bits in {len(low)} bytes")
    bits = np.unpackbits(low, bitorder="little")
    if bits[count * k :].any():
        raise CheckpointError("the file is damaged: bits behind the last number")
    width = _width(k)
    padded = np.zeros((count, 8 * width), np.uint8)
    padded[:, :k] = bits[: count * k].reshape(count, k)
    numbers = np.packbits(padded, axis=1, bitorder="little").view(f"<u{width}").reshape(-1).astype(np.int64)
    if len(unary):
        ends = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
        if len(ends) != count or not unary[-1]:
            raise CheckpointError(f"the file is damaged: {len(ends)} numbers where {count} were said")
        quotients = np.diff(ends, prepend=-1) - 1
        if count and int(quotients.max()) > limit >> k:
            raise CheckpointError(f"the file is damaged: a number is larger than {limit}")
        numbers += quotients << k
    if count and int(numbers.max()) > limit:
        raise CheckpointError(f"the file is damaged: a number is larger than {limit}")
    return numbers


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _width(k: int) -> int:
    """Bytes of the smallest machine word that holds k bits."""
    return next(w for w in (1, 2, 4, 8) if 8 * w >= k)
