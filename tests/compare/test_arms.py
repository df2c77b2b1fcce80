import pytest

from resprout.compare.arms import parse
from resprout.core.errors import ResproutError


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("one_way", "OneWay()"),
        ("one_way(lr=0.05)", "OneWay(lr=0.05)"),
        ("one_way(lr=0.1)", "OneWay()"),  # the default said aloud is the same arm
        ("lamp", "OneWay(allocate=Lamp())"),
        ("global", "OneWay(allocate=Global())"),
        ("newton_gain(damping=0.5)", "OneWay(score=NewtonGain(damping=0.5))"),
        ("rigl", "SparseTraining()"),
        ("set(zeta=0.2)", "SparseTraining(rule=Set(zeta=0.2))"),
        ("gmp", "Gmp()"),
    ],
)
def test_words_stand_for_recipes(text, config):
    assert parse(text).config == config
    assert parse(text).label == text


def test_a_control_is_of_an_arm():
    arm = parse("scratch(one_way(lr=0.05))")
    assert arm.control
    assert arm.of == parse("one_way(lr=0.05)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("one_wey", "'one_way'"),
        ("rigle", "'rigl'"),
        ("scratch", "of which arm"),
        ("scratch(small(one_way))", "control of a control"),
        ("one_way(epochs=3)", "--epochs"),
        ("one_way(3)", "cannot read recipe"),
        ("", "unknown arm"),
    ],
)
def test_what_is_no_arm_says_so(text, says):
    with pytest.raises(ResproutError, match=says):
        parse(text)
