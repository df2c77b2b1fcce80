"""Random programs of every operation, for tests of whatever plans, runs or stores them."""

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from resprout.core.errors import ResproutError
from resprout.deploy import program as p
from resprout.deploy.program import Program

SLOPES, CAPS = st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([math.inf, 1.5])
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADS = st.tuples(st.integers(0, 1), st.integers(0, 1))


@st.composite
def programs(draw, most: int = 10) -> Program:
    """A program of at most `most` operations on values of a few dozen elements."""
    image = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
    program = Program(draw(image | st.tuples(st.integers(1, 9))), ())
    for k in range(draw(st.integers(0, most))):
        op = draw(operations(program, k))
        try:
            program = Program(program.input, (*program.ops, op))
        except ResproutError:
            continue  # it does not fit these shapes
    return program


@st.composite
def operations(draw, program: Program, k: int) -> p.Op:
    """An operation that often fits."""
    shapes = program.shapes
    i = draw(st.integers(max(0, len(shapes) - 3), len(shapes) - 1))
    shape, one = shapes[i], (i,)
    twins = st.sampled_from([j for j, s in enumerate(shapes) if s == shape])
    beside = st.sampled_from([j for j, s in enumerate(shapes) if s[1:] == shape[1:]])
    activated = {"slope": draw(SLOPES), "cap": draw(CAPS)}
    named = {"weight": f"{k}.weight", "bias": draw(st.sampled_from([None, f"{k}.bias"]))}
    either = [
        lambda: p.Add(inputs=(i, draw(twins)), **activated),
        lambda: p.Activation(inputs=one, **activated),
        lambda: p.Scale(inputs=one, weight=f"{k}.weight", bias=f"{k}.bias", **activated),
        lambda: p.Concat(inputs=(i, *draw(st.lists(beside, max_size=2)))),
        lambda: p.Flatten(inputs=one),
    ]
    flat = [
        lambda: p.Linear(inputs=one, features=draw(st.integers(1, 9)), **named, **activated),
        lambda: p.Softmax(inputs=one),
    ]
    window = {"kernel": draw(PAIRS), "stride": draw(PAIRS), "padding": draw(PADS)}
    groups = draw(st.sampled_from([1, shape[0]]))
    plane = [
        lambda: p.Conv(
            inputs=one,
            channels=groups * draw(st.integers(1, 3)),
            dilation=draw(PAIRS),
            groups=groups,
            **named,
            **window,
            **activated,
        ),
        lambda: p.Pool(inputs=one, maximum=draw(st.booleans()), counts_padding=draw(st.booleans()), **window),
        lambda: p.Shortcut(
            inputs=one, stride=draw(PAIRS), before=draw(st.integers(0, 2)), after=draw(st.integers(0, 2))
        ),
    ]
    return draw(st.sampled_from(either + (flat if len(shape) == 1 else plane)))()


def random_tensors(program: Program, seed: int = 0) -> dict[str, Tensor]:
    """What the program needs."""
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=g) for n, shape in program.needs().items()}
