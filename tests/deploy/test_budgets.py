"""Budgets that know the network: multiply-adds, flash, RAM, time; and the device profiles."""

import json
import shutil

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.deploy import footprint, timing
from resprout.deploy.devices import DEFAULT, device, devices
from resprout.deploy.export.board import measure

LINKED = pytest.mark.skipif(not all(map(shutil.which, footprint.TOOLS)), reason="needs arm-none-eabi-gcc and make")


def net() -> nn.Module:
    """28 weights at 36 positions, 72 at 9, 40 at one."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, (1, 7), padding=(0, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(2, 20),
    ).eval()  # fmt: skip


def target(model: nn.Module, values: str = "fp16", name: str | None = None) -> rs.Target:
    return rs.Target(rs.lower(model, torch.randn(2, 1, 6, 6)), values, device=None if name is None else device(name))


def test_macs_by_hand():
    model = net()
    budget = Budget.parse("2k macs").on(target(model))
    masks = rs.prune(net(), 0.0)
    assert budget.cost(model, masks) == 28 * 36 + 72 * 9 + 40
    assert budget.prices(model, masks) == {"0.weight": 36, "4.weight": 9, "8.weight": 1}
    assert budget.cost(model, rs.Masks({"0.weight": torch.zeros(4, 1, 1, 7, dtype=torch.bool)})) == 72 * 9 + 40
    with pytest.raises(rs.BudgetError, match="does not know them"):
        Budget.parse("2k macs").cost(model, masks)


def test_prices_keep_more_weights_for_the_same_macs():
    model = net()
    budget = Budget.parse("900 macs").on(target(model))
    masks = rs.Masks.dense(model)
    probe = rs.Probe(model)
    from resprout.core.steps import chooser
    from resprout.methods.allocate.lamp import Lamp
    from resprout.methods.score.magnitude import Magnitude

    def met(prices):
        return budget.keep(model, chooser(probe, Magnitude(), Lamp(), 0, prices), 0, masks.total)

    plain, priced = met(None), met(budget.prices(model, masks))
    assert max(budget.cost(model, plain), budget.cost(model, priced)) <= 900
    assert priced.alive > plain.alive


@LINKED
@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_flash_is_what_the_linker_says(values):
    model, where = net(), target(net(), values)
    masks = rs.prune(model, 0.5)
    budget = Budget.parse("64KiB flash").on(where)
    linked = measure(footprint.as_stored(model, masks, where), device(DEFAULT))
    assert budget.measured(model, masks) == linked.flash
    assert budget.cost(model, masks) == linked.flash
    assert Budget.parse("64KiB ram").on(where).cost(model, masks) == linked.ram


def test_without_a_compiler_the_profile_is_used_and_it_says_so(monkeypatch):
    monkeypatch.setattr(footprint, "TOOLS", ("no-such-compiler",))
    model, where = net(), target(net())
    masks = rs.prune(model, 0.5)
    budget = Budget.parse("64KiB flash").on(where)
    image = device(DEFAULT).image
    assert image is not None
    assert image.recorded is not None
    assert budget.cost(model, masks) == footprint.weights(model, masks, where) + image.recorded.bytes
    assert "as its profile records" in budget.achieved(model, masks)["64KiB flash"]


def test_ram_that_is_not_there_says_what_takes_it():
    model = net()
    with pytest.raises(rs.BudgetError, match=r"100B ram cannot be met.*activations.*remove channels"):
        Budget.parse("100B ram").on(target(model)).check(model, rs.prune(model, 0.9))
    with pytest.raises(rs.BudgetError, match="rpi4 is no microcontroller"):
        Budget.parse("100KiB flash").on(target(model, name="rpi4")).cost(model, rs.Masks.dense(model))


def table(program: str) -> timing.Table:
    layers = {
        "0.weight": ((1, 1.0), (11, 3.0), (28, 2.0)),
        "4.weight": ((1, 1.0), (72, 15.2)),
        "8.weight": ((1, 1.0), (40, 1.0)),
    }
    return timing.Table("a machine", 1, program, layers, 10.0)


def test_time_by_a_table(tmp_path):
    model = net()
    traced = rs.lower(model, torch.randn(2, 1, 6, 6))
    made = table(timing.digest(traced.program))
    assert made.microseconds({"0.weight": 6, "4.weight": 1, "8.weight": 20}) == pytest.approx(10 + 2 + 1 + 1)
    assert made.microseconds({"4.weight": 1}) == pytest.approx(10 + 3 + 1 + 1)  # 28 weights take no less than 11
    made.save(tmp_path / "times.json")
    kept = timing.Table.read(tmp_path / "times.json")
    assert kept == made
    budget = Budget.parse("15us").on(rs.Target(traced, device=device("rpi4"), table=kept))
    masks = rs.prune(model, 0.9)
    assert budget.cost(model, masks) == budget.measured(model, masks) == made.microseconds(masks.counts)
    assert "by the table of a machine" in budget.achieved(model, masks)["15us"]
    prices = dict(budget.prices(model, masks) or {})
    assert prices["4.weight"] == pytest.approx(0.2)
    assert prices["8.weight"] > 0
    with pytest.raises(rs.BudgetError, match=r"5us cannot be met.*10us are the call"):
        Budget.parse("5us").on(rs.Target(traced, table=kept)).check(model, masks)
    with pytest.raises(rs.BudgetError, match="bench --table"):
        Budget.parse("15us").on(rs.Target(traced, device=device("rpi4"))).cost(model, masks)
    with pytest.raises(rs.BudgetError, match="another network"):
        Budget.parse("15us").on(rs.Target(traced, table=table("0123"))).cost(model, masks)


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"format": "resprout-table-1", "layers": 3})])
def test_a_damaged_table_is_refused(text, tmp_path):
    (tmp_path / "times.json").write_text(text)
    with pytest.raises(rs.CheckpointError, match="resprout bench --table"):
        timing.Table.read(tmp_path / "times.json")


def test_profiles_are_complete_and_unknown_names_get_the_nearest():
    assert {"cortex-m7-stm32h7", "rpi4", "this-machine", DEFAULT} <= set(devices())
    for d in devices().values():
        assert d.source.startswith("https://") or d.name == "this-machine"
        assert (d.budget is None) == (d.image is None)
        if d.budget is not None:
            assert [type(part) for part in getattr(Budget.parse(d.budget), "parts", ())] == [rs.Flash, rs.Ram]
    with pytest.raises(rs.ResproutError, match="'cortex-m7-stm32h7'"):
        device("cortex-m7")
