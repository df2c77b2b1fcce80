"""`fit` as a library call: what is kept, what is found again, what is refused."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.methods.recipe.bidirectional_iterative import BidirectionalIterative
from resprout.models.digits import digits_cnn
from resprout.tasks.digits import digits


def arrays(seed: int = 0) -> rs.Arrays:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 8, generator=g)
    y = (x[:, 0] > 0).long()
    return rs.Arrays((x, y), (x[:16], y[:16]), (x[:16], y[:16]), batch_size=16)


def images() -> rs.Arrays:
    task = arrays()
    x, y = task.train[0].view(64, 1, 2, 4), task.train[1]
    return rs.Arrays((x, y), (x[:16], y[:16]), (x[:16], y[:16]), batch_size=16)


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def test_a_finished_run_is_found_again_and_other_data_are_another_run(tmp_path):
    first, model = net(), net()
    result = rs.fit(first, arrays(), "60 nonzero", epochs=2, curve=False, out=tmp_path)
    again = rs.fit(model, arrays(), "60 nonzero", epochs=2, curve=False, out=tmp_path)
    assert again.folder == result.folder
    assert again.accuracy == result.accuracy
    assert result.frontier[-1].alive == 60
    assert all(torch.equal(t, first.state_dict()[n]) for n, t in model.state_dict().items())
    other = rs.fit(net(), arrays(1), "60 nonzero", epochs=2, curve=False, out=tmp_path)
    assert other.folder != result.folder


def test_control_spends_as_many_steps():
    result = rs.fit(net(), arrays(), ["40 nonzero", "80 nonzero"], epochs=4, curve=False, control=True, out=None)
    assert [a.alive for a in result.frontier] == [40, 80] == [a.alive for a in result.control]
    spent = {
        recipe: max(a.steps for a in arrivals)
        for recipe, arrivals in (("we", result.frontier), ("they", result.control))
    }
    assert spent["we"] == pytest.approx(spent["they"], abs=2)


def test_the_paper_protocol_is_labelled(tmp_path):
    """What was selected on test data says so, in the result and in the picture."""
    pytest.importorskip("matplotlib")
    recipe = BidirectionalIterative(epochs=2, allocator="global", paper_protocol=True)
    result = rs.fit(convnet(), images(), "60 nonzero", recipe=recipe, curve=False, out=tmp_path)
    assert result.selected_on == "test"
    assert "SELECTED ON TEST" in Path(result.report()["svg"]).read_text()


def test_a_budget_that_cannot_be_met_is_refused_before_training(tmp_path):
    told: list[str] = []
    with pytest.raises(rs.BudgetError, match="cannot be met"):
        rs.fit(net(), arrays(), "100B", dense_epochs=1, out=tmp_path, report=lambda event, facts: told.append(event))
    assert not told
    assert not list(tmp_path.iterdir())


def test_a_task_without_a_lasting_name_is_refused(tmp_path):
    class Mine(rs.Arrays):
        __repr__ = object.__repr__

    task = arrays()
    mine = Mine(task.train, task.validation, task.test, batch_size=16)
    with pytest.raises(rs.ResproutError, match="__repr__ of its settings"):
        rs.fit(net(), mine, 0.9, out=tmp_path)


@pytest.mark.parametrize("values", ["int8", "fp16"])
def test_the_file_is_within_one_percent_of_the_budget(values, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 2))
    result = rs.fit(model, arrays(), "2600B, 1500 macs", values=values, epochs=6, curve=False, out=tmp_path)
    (arrival,) = result.frontier
    size = Path(str(arrival.file)).stat().st_size
    assert size == arrival.bytes <= 2600
    assert arrival.alive <= 1500
    assert max(size / 2600, arrival.alive / 1500) >= 0.99
    assert arrival.achieved == {"2600B": f"{size}B", "1500 macs": f"{arrival.alive} macs"}
    assert rs.Result.read(str(result.folder)).frontier == result.frontier


class Odd(nn.Module):
    """A network that devices do not know."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.layer(x))


def test_a_network_that_cannot_be_traced_is_fitted_without_a_program_and_it_says_so():
    result = rs.fit(Odd(), arrays(), "10 nonzero", epochs=1, curve=False, out=None)
    assert result.frontier[-1].alive == 10
    assert "cannot be traced" in result.notes[0]
    with pytest.raises(
        rs.ResproutError, match="budget 10 macs counts the network's operations, and it cannot be traced"
    ):
        rs.fit(Odd(), arrays(), "10 macs", epochs=1, curve=False, out=None)


def test_a_device_is_a_budget_and_can_be_narrowed():
    from resprout.deploy.devices import device
    from resprout.fit import _budgets

    m3 = device("cortex-m3-lm3s6965")
    assert [str(b) for b in _budgets(None, m3)] == ["256KiB flash, 64KiB ram"]
    assert [str(b) for b in _budgets("8KiB,16KiB", m3)] == [
        "8KiB, 256KiB flash, 64KiB ram",
        "16KiB, 256KiB flash, 64KiB ram",
    ]
    assert [str(b) for b in _budgets("32KiB flash", m3)] == ["32KiB flash, 64KiB ram"]
    with pytest.raises(rs.BudgetError, match="more than the device has: 256KiB flash"):
        _budgets("257KiB flash", m3)
    with pytest.raises(rs.BudgetError, match="give a budget"):
        _budgets(None, device("rpi4"))


# -- channels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["60k macs", "6KiB", "6000B ram", "0.7"])
def test_channels_leave_until_the_budget_is_met_and_the_file_holds_the_smaller_network(budget, tmp_path):
    """Limits that zeros alone cannot meet (RAM) are met, and a second call reads the same network."""
    torch.manual_seed(0)
    model, task = digits_cnn(), digits()
    dense = copy.deepcopy(model)
    given = {"granularity": "channel", "epochs": 0.2, "control": budget == "0.7", "curve": False, "out": tmp_path}
    result = rs.fit(model, task, budget, **given)
    arrival, x = result.frontier[-1], next(iter(task.batches("test")))[0][:4]
    small = rs.load(arrival.file, copy.deepcopy(dense))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters()) / 2
    assert Path(arrival.file).stat().st_size == arrival.bytes
    small.eval(), model.eval()
    assert torch.allclose(small(x), model(x), atol=1e-5)
    assert torch.allclose(torch.from_numpy(rs.Runtime(arrival.file)(x.numpy())), small(x), atol=1e-3)
    aim = rs.Budget.parse(budget)
    assert aim.met(arrival.cost)
    assert all(one.steps == arrival.steps for one in result.control)
    again = copy.deepcopy(dense)
    assert rs.fit(again, task, budget, **given).frontier == result.frontier
    assert torch.allclose(again.eval()(x), model(x), atol=1e-6)


def test_channels_go_through_a_frontier_and_regrow():
    budgets = ["0.9", "0.7"]
    result = rs.fit(digits_cnn(), digits(), budgets, granularity="channel", epochs=0.2, curve=False, out=None)
    small, large = result.frontier
    assert small.alive < large.alive
    assert result.stump > small.sparsity
    assert {"units", "alive"} <= result.journal[-1].keys()
    assert result.journal[-1]["units"] < result.journal[-1]["alive"]
