"""Rice codes: bits by hand, everything comes back, the best parameter, and no wrong number from wrong bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resprout as rs
from resprout.deploy.rice import LARGEST_K, Rice, decode, rice


def of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@given(st.lists(st.integers(0, 5000) | st.integers(0, 3), max_size=300))
@settings(max_examples=150, deadline=None)
def test_numbers_come_back_and_no_parameter_is_better(numbers):
    code = rice(of(*numbers))
    assert (len(code.unary), len(code.low)) == (code.unary_bytes, code.low_bytes)
    assert code.size == len(code.unary) + len(code.low)
    assert decode(code.unary, code.low, len(numbers), code.k, 5000).tolist() == numbers
    for k in range(14):
        quotients = sum(n >> k for n in numbers)
        unary = quotients + len(numbers) if quotients else 0
        assert code.size <= (unary + len(numbers) * k) / 8 + 2  # of filling up to bytes


@given(st.lists(st.integers(0, 1 << 33), max_size=40), st.integers(0, LARGEST_K))
@settings(max_examples=60, deadline=None)
def test_every_parameter_works(numbers, k):
    numbers = [n & ((1 << (k + 6)) - 1) for n in numbers]
    bits = sum((n >> k) + 1 for n in numbers)
    code = Rice(of(*numbers), k, (bits + 7) // 8)
    assert decode(code.unary, code.low, len(numbers), k, 1 << 46).tolist() == numbers


def test_bits_by_hand():
    code = Rice(of(0, 5, 2, 9), 2, 1)  # quotients 0 1 0 2, low bits 00 01 10 01
    assert code.unary.tolist() == [0b1001101]
    assert code.low.tolist() == [0b01100100]
    zeros = rice(of(0, 0, 0))
    assert (zeros.k, zeros.size) == (0, 0)
    flat = rice(of(3, 2, 3, 3))
    assert (flat.k, flat.unary_bytes, flat.low.tolist()) == (2, 0, [0b11111011])


@pytest.mark.parametrize(
    ("unary", "low", "count", "k", "limit"),
    [
        ([0b1001101], [0b01100100], 3, 2, 99),  # one number too many
        ([0b1001101], [0b01100100], 5, 2, 99),  # too few
        ([0b1001101, 0], [0b01100100], 4, 2, 99),  # bytes behind
        ([0b1001101], [0b01100100, 0], 4, 2, 99),
        ([0b1001101], [], 4, 2, 99),
        ([0b1001101], [0b01100100], 4, 2, 8),  # 9 is beyond the limit
        ([], [0b11111011], 4, 2, 2),
        ([0b101], [0b10000001], 2, 2, 99),  # a bit where none belongs
        ([0b101], [0], 2, -1, 99),
        ([0b101], [0] * 50, 2, 200, 99),
        ([0, 0, 0, 0, 0, 0, 0, 1], [0] * 5, 1, 40, 1 << 30),  # 56 << 40
    ],
)
def test_wrong_streams_are_refused(unary, low, count, k, limit):
    with pytest.raises(rs.CheckpointError, match="damaged"):
        decode(np.array(unary, np.uint8), np.array(low, np.uint8), count, k, limit)
