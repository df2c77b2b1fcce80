"""The gain of a smaller network: counts against hand counts, times against a clock of ours, and honest words."""

import itertools
from collections.abc import Sequence

import pytest
import torch
import zoo
from torch import nn

import resprout as rs
from resprout.core.units import Group, living
from resprout.deploy import gain as module
from resprout.deploy.gain import Gain, Times, compare, multiply_adds
from resprout.graph.shape import shape_of


class Clock:
    """A clock that only calls move: each takes the milliseconds that are next in its list, over and over."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, *took: float):
        every = itertools.cycle(took)

        def run() -> None:
            self.now += next(every) / 1e3

        return run


def test_multiply_adds_are_those_counted_by_hand():
    assert multiply_adds(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)) == 3 * (32 + 16)
    assert multiply_adds(nn.Conv2d(4, 8, 3, groups=2), torch.randn(1, 4, 6, 6)) == 8 * 4 * 4 * 2 * 9
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    tokens = 5
    assert multiply_adds(layer, torch.randn(1, tokens, 16)) == tokens * (4 * 16 * 16 + 2 * 16 * 32) + 2 * tokens**2 * 16
    assert multiply_adds(nn.LSTM(4, 8, batch_first=True), torch.randn(1, 5, 4)) == 5 * 4 * (4 * 8 + 8 * 8)
    assert layer.training, "as it was"


def test_multiply_adds_are_those_of_the_program():
    model, x = zoo.OURS["resnet20"]()
    program = rs.lower(model, x).program
    tensors = dict(model.named_parameters())
    assert multiply_adds(model, x[:1]) == sum(m * tensors[n].numel() for n, m in program.macs().items())


def test_a_network_that_does_not_take_the_example():
    with pytest.raises(rs.ResproutError, match=r"Linear cannot be called with float32\[1, 3\]"):
        rs.gain(nn.Linear(4, 4), nn.Linear(4, 2), torch.randn(1, 3))


def test_both_have_a_turn_in_every_round():
    clock, order = Clock(), []

    def named(name: str, took: float):
        run = clock.call(took)
        return lambda: (order.append(name), run())

    calls = [named("dense", 20.0), named("small", 10.0)]
    times = compare("PyTorch", calls, seconds=0.9, clock=clock)
    assert (times.before, times.after) == (pytest.approx(20), pytest.approx(10))
    assert times.ratio == pytest.approx((2, 2, 2))
    assert times.faster
    turn = ["dense"] * 2 + ["small"] * 5  # 50 ms hold 2.5 and 5 calls
    assert order[:4] == ["dense", "small"] * 2, "one call to warm up, and one to see how long a turn is"
    assert order[4:] == turn * ((len(order) - 4) // len(turn))
    assert len(order) - 4 >= 15 * len(turn)
    assert "2.00 times faster" in str(times)


def test_a_gain_within_the_noise_is_none():
    clock = Clock()
    times = compare("PyTorch", [clock.call(20, 10, 20, 11), clock.call(19)], seconds=0.5, clock=clock)
    assert not times.faster
    assert "no gain: within the noise" in str(times)
    assert "faster" not in str(times)


@pytest.mark.parametrize(("took", "faster"), [(100 / 1.01, False), (100 / 1.03, True), (100 * 1.01, False)])
def test_two_copies_differ_by_a_percent(took, faster):
    clock = Clock()
    times = compare("PyTorch", [clock.call(100), clock.call(took)], seconds=0.5, clock=clock)
    assert times.faster is faster
    assert ("no gain: within the noise" in str(times)) is not faster


def test_a_slower_network_is_said_to_be_so():
    clock = Clock()
    times = compare("ONNX Runtime", [clock.call(10), clock.call(12.5)], seconds=0.5, clock=clock)
    assert str(times) == (
        "10 -> 12.5 ms with ONNX Runtime, no gain: 1.25 times slower (dense / small 0.80, quartiles 0.80–0.80)"
    )


def test_text_says_what_was_gained_and_what_not():
    said = str(Gain((100, 40), (1000, 1000), (Times("PyTorch", 2.0, 1.0, (1.9, 2.0, 2.1)),), threads=2))
    assert said == (
        "parameters 100 -> 40, 60.0 % fewer\n"
        "multiply-adds 1,000 -> 1,000, no gain\n"
        "latency 2 -> 1 ms with PyTorch, 2.00 times faster (quartiles 1.90–2.10), 2 threads"
    )


def test_gain_counts_and_measures_and_leaves_the_networks_alone():
    model, x = zoo.OURS["digits_cnn"]()
    model.train()
    masks = rs.prune(model, 0.5, granularity="channel", example=x, floor=1)
    small = rs.shrink(model, masks, x)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    found = rs.gain(model, small, x, seconds=0.01)
    assert found.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert found.macs == (multiply_adds(model, x), multiply_adds(small, x))
    assert found.macs[1] < found.macs[0]
    assert min(found.latency) > 0
    assert len(found.times) == 1
    assert str(found) == found.text
    assert model.training
    assert small.training
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_gain_with_onnx_runtime():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, x = zoo.OURS["digits_cnn"]()
    found = rs.gain(model, rs.shrink(model, rs.prune(model, 0.5, granularity="channel", example=x), x), x,
                    onnx=True, seconds=0.01)  # fmt: skip
    assert [t.engine for t in found.times] == ["PyTorch", "ONNX Runtime"]
    assert min(found.times[1].before, found.times[1].after) > 0


def test_onnx_needs_a_float_tensor_and_the_package(monkeypatch):
    model = nn.Linear(4, 2)
    with pytest.raises(rs.ResproutError, match="one float32 tensor"):
        rs.gain(model, model, {"input": torch.randn(1, 4)}, onnx=True, seconds=0.01)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(rs.ResproutError, match=r"pip install 'resprout\[onnx\]' onnxruntime"):
        rs.gain(model, model, torch.randn(1, 4), onnx=True, seconds=0.01)


def present(small: nn.Module, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    """Group -> which of its units are in a smaller network, by what it says of itself."""
    shape = shape_of(small)
    assert shape is not None
    found = {}
    for group in groups:
        slot = group.slots[0]
        kept = shape.kept.get(slot.parameter, {}).get(str(slot.dim), slot.index.flatten().tolist())
        found[group.name] = torch.isin(slot.index, torch.tensor(kept)).all(1)
    return found


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2", "deit_s"])
@pytest.mark.parametrize("to", [8, 3])
def test_round_to_rounds_up_and_computes_the_same(name, to):
    model, x = zoo.MODELS[name]()
    structure = rs.trace(model, x)
    masks = rs.prune(model, 0.5, granularity="channel", example=structure, score="random", floor=1)
    alive = living(structure.groups, masks)
    small = rs.shrink(model, masks, structure=structure, round_to=to)
    left = present(small, structure.groups)
    for group in structure.groups:
        was, units = alive[group.name], left[group.name]
        assert bool((units | ~was).all()), "none that lives has left"
        assert int(units.sum()) == min(len(group), -(-int(was.sum()) // to) * to)
    assert {n for n, a in left.items() if bool(a.all())} != set(left), "something has left"
    with torch.no_grad():
        wished, got = model.eval()(x), small.eval()(x)
    torch.testing.assert_close(got, wished, rtol=1e-4, atol=1e-4 * float(wished.abs().max()))
