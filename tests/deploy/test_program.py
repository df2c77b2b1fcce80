"""Shapes, needs and costs of programs by hand; what a file says is read back, or refused with a clear error."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs, random_tensors

from resprout.core.errors import CheckpointError, ResproutError
from resprout.deploy import interpret
from resprout.deploy import program as p
from resprout.deploy.program import Program

CONV = p.Conv(inputs=(0,), weight="w", bias="b", channels=6, kernel=(3, 2), stride=(2, 1), padding=(1, 0), groups=2)
PROGRAM = Program(
    (4, 8, 5),
    (
        CONV,  # (8 + 2 - 3) // 2 + 1 = 4 rows, (5 - 2) + 1 = 4 columns
        p.Pool(inputs=(1,), maximum=True, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),  # 2 x 2
        p.Shortcut(inputs=(1,), stride=(2, 3), before=1, after=2),  # 9 x 2 x 2
        p.Concat(inputs=(2, 3)),  # 15 x 2 x 2
        p.Scale(inputs=(4,), weight="s", bias="t", slope=0.0, cap=6.0),
        p.Flatten(inputs=(5,)),
        p.Linear(inputs=(6,), weight="l", features=7),
        p.Activation(inputs=(7,), slope=0.25),
        p.Add(inputs=(7, 8)),
        p.Softmax(inputs=(9,)),
    ),
)


def test_shapes_needs_and_costs_by_hand():
    assert PROGRAM.shapes == (
        (4, 8, 5),
        (6, 4, 4),
        (6, 2, 2),
        (9, 2, 2),
        (15, 2, 2),
        (15, 2, 2),
        (60,),
        (7,),
        (7,),
        (7,),
        (7,),
    )
    assert PROGRAM.needs() == {"w": (6, 2, 3, 2), "b": (6,), "s": (15,), "t": (15,), "l": (7, 60)}
    assert PROGRAM.macs() == {"w": 16, "l": 1}
    assert PROGRAM.output == (7,)


def test_a_weight_used_twice_costs_twice():
    linear = p.Linear(inputs=(0,), weight="w", features=4)
    assert Program((4,), (linear, p.Linear(inputs=(1,), weight="w", features=4))).macs() == {"w": 2}


def test_the_json_by_hand():
    assert Program((4, 8, 5), (CONV, p.Add(inputs=(1, 1), slope=0.0))).to_json() == [
        [4, 8, 5],
        [
            "conv",
            {
                "inputs": [0],
                "weight": "w",
                "bias": "b",
                "channels": 6,
                "kernel": [3, 2],
                "stride": [2, 1],
                "padding": [1, 0],
                "groups": 2,
            },
        ],
        ["add", {"inputs": [1, 1], "slope": 0.0}],
    ]


@settings(max_examples=100, deadline=None)
@given(programs())
def test_programs_come_back_from_json(program):
    assert Program.from_json(json.loads(json.dumps(program.to_json(), allow_nan=False))) == program


@settings(max_examples=60, deadline=None)
@given(programs())
def test_shapes_are_those_that_torch_gives(program):
    tensors = random_tensors(program)
    program.check(tensors)
    assert interpret.run(program, tensors, torch.randn(2, *program.input)).shape == (2, *program.output)


def test_an_input_of_another_shape_is_refused():
    with pytest.raises(ResproutError, match=r"must be \(N, 4, 8, 5\), got \(4, 8, 5\)"):
        interpret.run(PROGRAM, random_tensors(PROGRAM), torch.zeros(4, 8, 5))


def test_tensors_are_checked():
    tensors = random_tensors(PROGRAM)
    with pytest.raises(ResproutError, match=r"needs 'l' of shape \(7, 60\), got nothing"):
        PROGRAM.check({n: t for n, t in tensors.items() if n != "l"})
    with pytest.raises(ResproutError, match=r"needs 's' of shape \(15,\), got \(14,\)"):
        PROGRAM.check({**tensors, "s": torch.zeros(14)})


IMPOSSIBLE = {
    "a value that does not exist yet": ((4,), [p.Activation(inputs=(1,))], "do not exist yet"),
    "no value": ((4,), [p.Concat(inputs=())], "do not exist yet"),
    "flat into a convolution": ((4,), [CONV], "takes .channels, height, width"),
    "groups": ((3, 8, 5), [CONV], "do not split in 2 groups"),
    "a kernel too large": ((4, 8, 1), [CONV], "does not fit"),
    "an image into a linear": ((4, 1, 1), [p.Linear(inputs=(0,), weight="w", features=1)], "one flat value"),
    "sum of two shapes": (
        (4, 2, 2),
        [p.Flatten(inputs=(0,)), p.Add(inputs=(0, 1))],
        "of one shape",
    ),
    "softmax of an image": ((4, 2, 2), [p.Softmax(inputs=(0,))], "flat"),
    "an empty input": ((0,), [], "cannot have shape"),
    "a matrix": ((2, 2), [], "cannot have shape"),
    "too large": ((p.LARGEST + 1,), [], "cannot have shape"),
    "no features": ((4,), [p.Linear(inputs=(0,), weight="w", features=0)], "cannot have shape"),
    "a name of two shapes": (
        (4,),
        [p.Linear(inputs=(0,), weight="w", features=3), p.Linear(inputs=(1,), weight="w", features=3)],
        r"'w' is used as a tensor of shape \(3, 4\) and of \(3, 3\)",
    ),
    "a bias that is a weight": (
        (4,),
        [p.Linear(inputs=(0,), weight="w", features=4), p.Linear(inputs=(1,), weight="v", bias="w", features=4)],
        "'w' is used",
    ),
    "padding over half of a pool": (
        (4, 8, 8),
        [p.Pool(inputs=(0,), maximum=True, kernel=(2, 2), stride=(2, 2), padding=(2, 1))],
        "over half",
    ),
    "endless padding": (
        (1, 8, 8),
        [p.Conv(inputs=(0,), weight="w", channels=1, kernel=(1, 1), stride=(1 << 30, 1 << 30), padding=(1 << 29, 0))],
        "cannot have padding",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_operations_that_do_not_fit_are_refused(name):
    shape, ops, words = IMPOSSIBLE[name]
    with pytest.raises(ResproutError, match=words):
        Program(shape, tuple(ops))


@pytest.mark.parametrize("wrong", [{"slope": math.nan}, {"slope": math.inf}, {"cap": -1.0}, {"cap": math.nan}])
def test_activations_beyond_sense_are_refused(wrong):
    with pytest.raises(ResproutError, match="an activation of slope"):
        p.Activation(inputs=(0,), **wrong)


# -- hostile files -----------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from([1 << 31, 1 << 200, -1 << 70, 1e400, -0.0, 0.5, math.nan, "", "w", "conv", "inputs", "\ud800"])
    | st.sampled_from(sorted(p.OPS)),
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.sampled_from(["inputs", "slope", "x"]), deeper),
    max_leaves=4,
)


def spots(data) -> list[tuple]:
    """All places in nested lists and dictionaries."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [s for k, v in pairs for s in [(data, k), *spots(v)]]


@settings(max_examples=400, deadline=None)
@given(programs(6) | st.just(PROGRAM), st.data())
def test_damaged_programs_are_refused_or_sound(program, data):
    rows = [program.to_json()]
    for _ in range(data.draw(st.integers(1, 3))):
        box, key = data.draw(st.sampled_from(spots(rows)))
        match data.draw(st.sampled_from(["replace", "delete", "repeat"])):
            case "replace":
                box[key] = data.draw(JUNK)
            case "delete" if box is not rows:
                del box[key]
            case "repeat" if isinstance(box, list) and box is not rows:
                box.insert(key, box[key])
    try:
        read = Program.from_json(rows[0])
    except CheckpointError:
        return
    assert Program.from_json(read.to_json()) == read
    assert all(1 <= math.prod(shape) <= p.LARGEST for shape in read.shapes)
    assert all(isinstance(name, str) for name in read.needs())
    assert sum(read.macs().values()) >= 0


@given(JUNK)
def test_what_is_no_program_at_all_is_refused(junk):
    with pytest.raises(CheckpointError, match="damaged"):
        Program.from_json(junk)


def test_values_that_double_without_end_are_refused_at_once():
    rows = [[1 << 20], *(["concat", {"inputs": [k, k]}] for k in range(3_000))]
    with pytest.raises(CheckpointError, match="cannot have shape"):
        Program.from_json(rows)
