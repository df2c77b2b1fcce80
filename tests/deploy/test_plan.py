"""Values that are in use lie apart, and the arena is as small as it can be."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs, random_tensors

from resprout.deploy import interpret
from resprout.deploy import program as p
from resprout.deploy.plan import INPUT, OUTPUT, Block, place, plan
from resprout.deploy.program import Program
from resprout.deploy.trace import lower
from resprout.models import build

IN_PLACE = (p.Activation, p.Scale, p.Add, p.Softmax, p.Flatten)


def run_in_arena(program: Program, inside: bool) -> torch.Tensor:
    """The output, computed as a device would: every value at its place, whatever lay there before is lost."""
    laid, shapes = plan(program, inside), program.shapes
    tensors, x = random_tensors(program), torch.randn(program.input)
    arena, buffers = torch.full((laid.size,), math.nan), {INPUT: x.flatten(), OUTPUT: torch.zeros(program.output)}
    buffers[OUTPUT] = buffers[OUTPUT].flatten().fill_(math.nan)

    def view(value: int) -> torch.Tensor:
        n, offset = math.prod(shapes[value]), laid.offsets[value]
        return buffers[offset] if offset < 0 else arena[offset : offset + n]

    if inside:
        view(0).copy_(x.flatten())
    for k, op in enumerate(program.ops):
        given = [view(i).clone().view(1, *shapes[i]) for i in op.inputs]
        result = interpret.apply(op, tensors, given)
        for i in op.inputs:
            a, b, size = laid.offsets[i], laid.offsets[k + 1], math.prod(shapes[k + 1])
            if a == b:
                assert isinstance(op, IN_PLACE)
                assert a != INPUT or isinstance(op, p.Flatten)
            elif min(a, b) >= 0:
                assert a + math.prod(shapes[i]) <= b or b + size <= a
        view(k + 1).copy_(result.flatten())
    torch.testing.assert_close(buffers[INPUT], x.flatten())
    expected = interpret.run(program, tensors, x[None])
    torch.testing.assert_close(view(len(program.ops)), expected.flatten(), equal_nan=True)
    assert laid.size >= laid.bound
    return expected


@settings(max_examples=100, deadline=None)
@given(programs(), st.booleans())
def test_random_programs_run_in_their_arena(program, inside):
    run_in_arena(program, inside)


def live(program: Program, k: int, inside: bool) -> int:
    """Elements that step k (operation k - 1) needs, counted from the definition for programs without work in place."""
    end = len(program.ops)
    last = {v: max([n for n, op in enumerate(program.ops, 1) if v in op.inputs], default=v) for v in range(end + 1)}
    last[end] = end
    return sum(
        math.prod(program.shapes[v]) for v in range(end + 1) if v <= k <= last[v] and (inside or v not in (0, end))
    )


@settings(max_examples=100, deadline=None)
@given(programs(), st.booleans())
def test_the_bound_is_what_is_in_use_at_once(program, inside):
    laid = plan(program, inside)
    most = max(live(program, k, inside) for k in range(len(program.ops) + 1))
    assert laid.bound <= most
    if not any(isinstance(op, IN_PLACE) for op in program.ops):
        assert laid.bound == most


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=5))
def test_few_blocks_are_placed_as_well_as_any_order_can(rows):
    blocks = [Block(size, first, first + length) for size, first, length in rows]
    bound = max(sum(b.size for b in blocks if b.first <= t <= b.last) for t in range(12))

    def lowest(order: tuple[Block, ...]) -> int:
        """The height when blocks are laid in this order, each as low as possible, cell by cell."""
        taken: set[tuple[int, int]] = set()
        for b in order:
            cells = lambda at, b=b: {(t, at + i) for t in range(b.first, b.last + 1) for i in range(b.size)}  # noqa: E731
            at = next(n for n in itertools.count() if not cells(n) & taken)
            taken |= cells(at)
        return max(i for _, i in taken) + 1

    offsets = place(blocks, bound)
    for (a, x), (b, y) in itertools.combinations(zip(blocks, offsets, strict=True), 2):
        assert not a.meets(b) or x + a.size <= y or y + b.size <= x
    assert max(o + b.size for o, b in zip(offsets, blocks, strict=True)) == min(
        lowest(order) for order in itertools.permutations(blocks)
    )


@pytest.mark.parametrize(
    ("name", "shape", "size", "inside"),
    [
        ("resnet20", (3, 32, 32), 3 * 16 * 32 * 32, 3 * 16 * 32 * 32),
        ("vgg16", (3, 32, 32), 2 * 64 * 32 * 32, 2 * 64 * 32 * 32),
        ("digits_cnn", (1, 8, 8), (32 + 64) * 8 * 8, (32 + 64) * 8 * 8),
        ("lenet_300_100", (784,), 300 + 100, 784 + 300),
    ],
)
def test_our_networks_reach_the_bound(name, shape, size, inside):
    program = lower(build(name), torch.zeros(1, *shape)).program
    for laid, expected in ((plan(program), size), (plan(program, inside=True), inside)):
        print(f"{name}: {laid.size} elements, bound {laid.bound}, ratio {laid.size / laid.bound:.4f}")
        assert laid.size == laid.bound == expected


def test_places_by_hand():
    """x -> conv a -> relu in place -> flatten -> linear b -> softmax in the output."""
    ops = (
        p.Conv(inputs=(0,), weight="w", channels=2, kernel=(1, 1)),
        p.Activation(inputs=(1,), slope=0.0),
        p.Flatten(inputs=(2,)),
        p.Linear(inputs=(3,), weight="v", features=5),
        p.Softmax(inputs=(4,)),
    )
    program = Program((3, 2, 2), ops)
    assert plan(program).offsets == (INPUT, 0, 0, 0, OUTPUT, OUTPUT)
    assert plan(program).size == 8
    assert plan(program, inside=True).size == 12 + 8


def test_a_value_that_is_read_later_is_not_overwritten():
    ops = (p.Scale(inputs=(0,), weight="w", bias="b"), p.Activation(inputs=(1,), slope=0.0), p.Add(inputs=(1, 2)))
    laid = plan(Program((4,), ops))
    assert laid.offsets[1] != laid.offsets[2]
    assert laid.size == 8 - 4 * (laid.offsets.count(OUTPUT) - 1)


@pytest.mark.parametrize("ops", [(), (p.Flatten(inputs=(0,)),), (p.Activation(inputs=(0,)), p.Flatten(inputs=(1,)))])
def test_programs_without_anything_between_need_no_memory(ops):
    assert plan(Program((2, 3, 4), ops)).size == 0


def test_the_search_finds_what_greedy_orders_miss():
    """Largest first puts the block of 3 onto that of 5, and the one of 2 does not fit into the gap of 1 below it."""
    blocks = [Block(2, 5, 6), Block(5, 1, 4), Block(4, 5, 8), Block(3, 4, 6)]
    offsets = place(blocks, 9)
    assert max(o + b.size for o, b in zip(offsets, blocks, strict=True)) == 9
