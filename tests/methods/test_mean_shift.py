"""The mean shift, by hand and beside the variance score that it belongs to."""

import copy

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Train
from resprout.core.units import Group, Slot
from resprout.methods.recover.mean_shift import MeanShift, compensate
from resprout.methods.score.variance import Variance
from resprout.tasks.digits import digits


def total(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).sum()


def mlp() -> tuple[nn.Sequential, list[Tensor]]:
    """Hidden units 1 and 4 of six are constant: 3 and relu(-1) = 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
        model[0].bias[[1, 4]] = torch.tensor([3.0, -1.0])
    return model, [torch.randn(n, 4) for n in (30, 7)]


def units() -> tuple[Group, ...]:
    each = torch.arange(6)[:, None]
    return (
        Group("0.weight", "channel", (Slot("0.weight", 0, each), Slot("0.bias", 0, each), Slot("2.weight", 1, each))),
    )


def dead(model: nn.Module, which: list[int]) -> Masks:
    """Masks without these hidden units, put in force."""
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    masks["0.weight"][which], masks["2.weight"][:, which] = False, False
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in masks:
                p.mul_(masks[n])
    return Masks(masks)


def test_constant_units_go_first_and_for_nothing():
    model, data = mlp()
    dense = copy.deepcopy(model)
    probe = Probe(dense, data=data, loss=total, training=False)
    probe.groups = units()
    rows = Variance()(probe)["0.weight"].flatten(1)[:, 0]
    assert set(rows.argsort()[:2].tolist()) == {1, 4}
    assert rows[[1, 4]].tolist() == [0, 0]
    masks, x = dead(model, [1, 4]), torch.cat(data)
    assert (model(x) - dense(x)).abs().max() > 0.1
    assert compensate(model, masks, probe) == ("2.weight",)
    assert (model(x) - dense(x)).abs().max() < 1e-6
    small = rs.shrink(model, masks, x)
    assert sum(p.numel() for p in small.parameters()) == 4 * (4 + 1) + 3 * (4 + 1)
    assert (small(x) - dense(x)).abs().max() < 1e-6


@torch.no_grad()
def test_the_error_that_remains_is_what_the_covariance_says():
    """E ||dy||^2 = tr(W_P Sigma_P W_P^T) on the calibration set."""
    model, data = mlp()
    dense, x, gone = copy.deepcopy(model), torch.cat(data), [0, 1, 3]
    masks = dead(model, gone)
    biases = model[0].bias.clone()
    compensate(model, masks, Probe(dense, data=data, loss=total, training=False))
    hidden = dense[:2](x)[:, gone].double()
    w, sigma = dense[2].weight[:, gone].double(), torch.cov(hidden.T, correction=0)
    found = (model(x) - dense(x)).double().square().sum(1).mean()
    assert float(found) == pytest.approx(float(torch.trace(w @ sigma @ w.T)), rel=1e-4)
    torch.testing.assert_close(model(x).mean(0), dense(x).mean(0))
    assert torch.equal(model[0].bias, biases), "nobody reads a dead unit: its bias is left alone"


@torch.no_grad()
@pytest.mark.parametrize("padding", [0, 1])
def test_the_mean_of_a_convolution_is_kept_and_its_inside_too(padding):
    """A constant channel under a padded convolution: the mean is kept; all positions are, where nothing is padded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=padding))
    model[0].weight[0], model[0].bias[0] = 0, 2
    dense, x = copy.deepcopy(model), torch.randn(3, 1, 5, 5)
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    masks["2.weight"][:, 0] = False
    model[2].weight[:, 0] = 0
    compensate(model, Masks(masks), Probe(dense, data=[x], loss=total))
    off = model(x) - dense(x)
    assert off.mean((0, 2, 3)).abs().max() < 1e-6
    assert (off.abs().max() < 1e-5) == (padding == 0)


@torch.no_grad()
def test_a_batch_norm_takes_up_what_a_layer_without_bias_cannot():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1)
    ).eval()  # fmt: skip
    model[0].weight[1], model[0].bias[1] = 0, 2
    dense, x = copy.deepcopy(model), torch.randn(9, 2)
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    masks["2.weight"][:, 1] = False
    model[2].weight[:, 1] = 0
    compensate(model, Masks(masks), Probe(dense, data=[x], loss=total, training=False))
    assert model[2].bias is None
    torch.testing.assert_close(model(x), dense(x))


@torch.no_grad()
def test_a_layer_without_bias_says_so_or_gets_one():
    model, data = mlp()
    model[2].bias = None
    dense, masks, x = copy.deepcopy(model), dead(model, [1, 4]), torch.cat(data)
    probe = Probe(dense, data=data, loss=total, training=False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ResproutError, match="create=True"):
        compensate(model, masks, probe)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    compensate(model, masks, probe, create=True)
    torch.testing.assert_close(model(x), dense(x))


def test_the_recovery_shifts_within_a_run():
    model, data = mlp()
    y = torch.randint(3, (30,))
    run = Run(model, rs.Arrays((data[0], y), (data[0], y), (data[0], y), batch_size=15, name="toy"))
    run.do(Mark("dense"))
    dense, masks = copy.deepcopy(model).eval(), Masks.dense(model)
    units = {n: m.clone() for n, m in masks.items()}
    units["0.weight"][[1, 4]], units["2.weight"][:, [1, 4]] = False, False
    run.set_masks(Masks(units))
    shift, train = MeanShift()(5)
    assert isinstance(train, Train)
    assert run.do(shift)["shifted"] == ["2.weight"]
    torch.testing.assert_close(model(data[1]), dense(data[1]))


def test_variance_with_the_shift_beats_variance_without_it(loss):
    """The catalogue's check on the digits: 60 % of the hidden units in one go, no training after it."""
    pytest.importorskip("sklearn")
    gains = []
    for seed in range(3):
        torch.manual_seed(seed)
        task = digits(seed=seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for epoch in range(30):
            for batch in task.batches("train", seed=seed, epoch=epoch):
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
        dense, data = copy.deepcopy(model), list(task.batches("train", seed=0))[:8]
        given = {"data": data, "loss": loss, "example": data[0][0]}
        masks = rs.prune(model, 0.6, score="variance", granularity="channel", **given)
        assert int(masks["1.weight"].any(1).sum()) == 256 - round(0.6 * 256)
        cut = task.evaluate(model, "test")["accuracy"]
        compensate(model, masks, Probe(dense, data=data, loss=loss, training=False))
        gains.append(task.evaluate(model, "test")["accuracy"] - cut)
    assert min(gains) > 0
    assert sum(gains) / 3 > 0.05
