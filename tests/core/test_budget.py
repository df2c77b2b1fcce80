"""`Budget`: what is read, what it costs, and the largest network that keeps it."""

import math

import pytest
import torch
from torch import nn

import resprout as rs
from resprout import All, Bytes, Flash, Latency, Macs, Ram
from resprout.core.budget import Budget, Nonzero, Sparsity
from resprout.core.granularity import Weight
from resprout.core.probe import Probe
from resprout.core.steps import pruned
from resprout.deploy import encoding
from resprout.methods.allocate.global_ import Global
from resprout.methods.score.magnitude import Magnitude


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("64KiB", Bytes(65536)),
        ("64 kib", Bytes(65536)),
        ("64KB", Bytes(64000)),
        ("1.5MiB", Bytes(1572864)),
        ("2mb", Bytes(2_000_000)),
        ("1GiB", Bytes(1 << 30)),
        ("65_536B", Bytes(65536)),
        ("64KiB flash", Flash(65536)),
        ("5M macs", Macs(5_000_000)),
        ("12345 macs", Macs(12345)),
        ("96KiB ram", Ram(98304)),
        ("1.5ms", Latency(1500)),
        ("200 us", Latency(200)),
        ("0.5s", Latency(500_000)),
        ("256KiB flash, 64KiB ram, 4ms", All((Flash(262144), Ram(65536), Latency(4000)))),
        ("64KiB,256KiB flash", All((Bytes(65536), Flash(262144)))),
        ("12k nonzero", Nonzero(12000)),
        ("1.5M weights", Nonzero(1_500_000)),
        ("12345 nonzero", Nonzero(12345)),
        ("12_345nonzero", Nonzero(12345)),
        ("0.98", Sparsity(0.98)),
        (".5", Sparsity(0.5)),
        ("98%", Sparsity(0.98)),
        ("98 % sparse", Sparsity(0.98)),
        ("0.98 sparsity", Sparsity(0.98)),
        ("0", Sparsity(0.0)),
        ("1", Sparsity(1.0)),
        (0.98, Sparsity(0.98)),
        (1, Sparsity(1.0)),
        (Nonzero(7), Nonzero(7)),
    ],
)
def test_parse(text, want):
    assert Budget.parse(text) == want
    assert Budget.parse(str(Budget.parse(text))) == want  # what is shown can be asked for again


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("98", "did you mean 0.98"),
        (98, "did you mean 0.98"),
        ("2", r"did you mean 0.98 \(keep 2 %\) or 0.02"),
        ("200%", r"\[0, 1\], got 2"),
        ("-0.1", "cannot read budget '-0.1'"),
        (-0.1, r"\[0, 1\], got -0.1"),
        (math.nan, r"\[0, 1\], got nan"),
        (True, "must be a number"),
        ("-1KiB", "cannot read budget '-1KiB'; write '64KiB'"),
        ("abc", "cannot read budget 'abc'"),
        ("NaN", "cannot read budget 'NaN'"),
        ("inf", "cannot read budget"),
        ("", "cannot read budget ''"),
        ("1.2.3", "cannot read budget"),
        (".KiB", "cannot read budget"),
        ("12k", "cannot read budget"),
        ("1e3 nonzero", "cannot read budget"),
        ("98% nonzero", "cannot read budget"),
        ("16KiB, 32KiB", "limits one thing twice, to 16KiB and to 32KiB"),
        ("16KiB,,1ms", "empty budget in '16KiB,,1ms'"),
        ("5 parsecs", "cannot read budget '5 parsecs'"),
        (None, "cannot read budget None"),
        ([0.5], "cannot read budget"),
    ],
)
def test_parse_refuses(text, match):
    with pytest.raises(rs.ResproutError, match=match):
        Budget.parse(text)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 10))


def chooser(model: nn.Module):
    probe = Probe(model)
    return lambda keep: pruned(probe, keep, Magnitude(), Global(), Weight())


def test_costs_are_those_of_the_masks():
    model = net()
    masks = rs.prune(model, 0.9)
    assert Sparsity(0.9).cost(model, masks) == pytest.approx(0.9)
    assert Nonzero(1).cost(model, masks) == masks.alive == 240
    assert Bytes(1, "fp32").cost(model, masks) == len(encoding.encode(encoding.archive(model, masks, "fp32")))
    assert Bytes(1).cost(model, masks) == len(encoding.encode(encoding.archive(model, masks, "fp16")))
    assert Sparsity(0.9).met(0.9)
    assert not Sparsity(0.9).met(0.8999)
    assert Nonzero(240).met(240)
    assert not Nonzero(240).met(241)
    assert Bytes(100).met(100)
    assert not Bytes(100).met(101)


@pytest.mark.parametrize("size", [1500, 2001, 2048, 4095, 4096])
@pytest.mark.parametrize("values", ["fp16", "fp32"])
def test_bytes_are_met_to_the_last_weight(size, values):
    model = net()
    budget, choose = Bytes(size, values), chooser(model)
    masks = budget.keep(model, choose, 0, 2400)
    assert 0 < masks.alive < 2400
    assert len(encoding.encode(encoding.archive(model, masks, values))) <= size
    assert len(encoding.encode(encoding.archive(model, choose(masks.alive + 1), values))) > size


def test_a_large_budget_keeps_everything():
    model = net()
    assert Bytes(10**6).keep(model, chooser(model), 0, 2400).alive == 2400
    assert Nonzero(10**6).keep(model, chooser(model), 0, 2400).alive == 2400
    assert Sparsity(0.0).keep(model, chooser(model), 0, 2400).alive == 2400


@pytest.mark.parametrize("wanted", [0, 1, 777, 2400])
def test_nonzero_is_met_exactly(wanted):
    model = net()
    assert Nonzero(wanted).keep(model, chooser(model), 0, 2400).alive == wanted


@pytest.mark.parametrize(("fraction", "alive"), [(0.98, 48), (0.9, 240), (0.9999, 0), (1.0, 0), (0.3333, 1600)])
def test_sparsity_is_met_and_one_more_would_be_too_many(fraction, alive):
    model = net()
    masks = Sparsity(fraction).keep(model, chooser(model), 0, 2400)
    assert masks.alive == alive
    assert Sparsity(fraction).met(masks.sparsity)
    assert not Sparsity(fraction).met(1 - (alive + 1) / 2400)


def test_a_budget_that_cannot_be_met_says_how_near_one_gets():
    model, choose = net(), chooser(net())
    least = Bytes(1).cost(model, choose(0))
    with pytest.raises(
        rs.BudgetError, match=rf"budget 500B cannot be met: with 0 weights alive .* at {least:.0f}B"
    ) as e:
        Bytes(500).keep(model, choose, 0, 2400)
    assert f"{least:,.0f} bytes are biases, norms and the header" in str(e.value)
    assert Bytes(int(least)).keep(model, choose, 0, 2400).alive == 0
    with pytest.raises(rs.BudgetError, match=r"budget 5 nonzero cannot be met: with 20 weights alive .* 20 nonzero"):
        Nonzero(5).keep(model, choose, 20, 2400)
    with pytest.raises(
        rs.BudgetError, match=r"budget 0.999 cannot be met: with 20 weights alive the network is still at 0.99"
    ):
        Sparsity(0.999).keep(model, choose, 20, 2400)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("16KiB,32KiB", ["16KiB", "32KiB"]),
        ("16KiB; 32KiB", ["16KiB", "32KiB"]),
        ("256KiB flash, 4ms", ["256KiB flash, 4ms"]),
        ("16KiB, 1ms; 32KiB, 2ms", ["16KiB, 1ms", "32KiB, 2ms"]),
        (["16KiB, 1ms", 0.98], ["16KiB, 1ms", "0.98"]),
        (0.98, ["0.98"]),
    ],
)
def test_several(text, want):
    assert [str(b) for b in Budget.several(text)] == want


@pytest.mark.parametrize(
    ("text", "match"), [("16KiB, 32KiB, 1ms", "write ';'"), ([], "empty"), ("1KiB;;2KiB", "empty")]
)
def test_several_refuses(text, match):
    with pytest.raises(rs.BudgetError, match=match):
        Budget.several(text)


def test_all_limits_are_met_and_one_of_them_to_the_last_weight():
    model, choose = net(), chooser(net())
    for text, binding in (("4KiB, 2000 nonzero", Bytes(4096)), ("100KiB, 777 nonzero, 0.5", Nonzero(777))):
        budget = Budget.parse(text)
        assert isinstance(budget, All)
        masks = budget.keep(model, choose, 0, 2400)
        assert all(part.met(part.cost(model, masks)) for part in budget.parts)
        assert not binding.met(binding.cost(model, choose(masks.alive + 1)))
        assert list(budget.achieved(model, masks)) == text.split(", ")
    with pytest.raises(rs.BudgetError, match=r"100B: .* bytes are biases"):
        Budget.parse("100B, 20 nonzero").keep(model, choose, 0, 2400)


def test_units_that_fit_beside_the_best_come_in_though_a_dear_one_before_them_does_not():
    sizes = {"a": 5, "b": 4, "c": 1, "d": 3, "e": 1}  # in their order
    model = nn.ParameterDict({n: torch.ones(size, 1) for n, size in sizes.items()})

    def choose(count: int) -> rs.Masks:
        return rs.Masks({n: torch.full((size, 1), i < count) for i, (n, size) in enumerate(sizes.items())})

    assert Nonzero(7).keep(model, choose, 0, 5).counts == {"a": 5, "b": 0, "c": 1, "d": 0, "e": 1}
    assert Nonzero(9).keep(model, choose, 0, 5).counts == {"a": 5, "b": 4, "c": 0, "d": 0, "e": 0}
    assert Nonzero(13).keep(model, choose, 1, 5).counts == {"a": 5, "b": 4, "c": 1, "d": 3, "e": 0}
