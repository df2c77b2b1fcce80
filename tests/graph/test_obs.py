"""The layer-wise surgeon: columns by unfold, the optimum by lstsq, removal costs by solving without the block."""

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.norms import recalibrate
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.units import Group, Slot, spread
from resprout.methods.recover.obs import Obs, compensate
from resprout.methods.score.group_sum import GroupSum
from resprout.methods.score.obspa import Obspa
from resprout.numerics.curvature import columns, curvature, inverse, least_squares, removal


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(model, x):
    return model(x).square().mean()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(4, 6, (3, 2), padding="valid", dilation=(1, 2), groups=2),
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=4),
        nn.Conv1d(4, 6, 3, 1, 2),
        nn.Conv3d(4, 2, 2),
        nn.Linear(5, 3),
    ],
)
def test_columns_times_weight_is_the_layer(layer):
    layer = layer.double()
    dims = getattr(layer, "kernel_size", ())
    x = randn(2, 4, *[5] * len(dims)) if dims else randn(2, 7, 5)
    out = layer(x) - layer.bias.view(-1, *[1] * len(dims))
    rows = columns(layer, x)
    again = rows @ layer.weight.reshape(len(rows), -1, rows.shape[2]).mT  # groups, positions, outputs of each
    again = again.movedim(0, 1).flatten(1)
    expected = out.movedim(1, -1).reshape(len(again), -1) if dims else out.flatten(0, 1)
    torch.testing.assert_close(again, expected)


def test_a_linear_layer_becomes_the_least_squares_optimum():
    """The catalogue's check, to 1e-6: on the remaining columns nothing comes nearer to W X."""
    model, x = nn.Linear(8, 5, bias=False).double(), randn(40, 8)
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]  # correlated, so that there is something to make up with
    keep = torch.tensor([True, False, True, True, False, True, True, True])
    probe = Probe(model, data=[x[:25], x[25:]], loss=loss)
    best = least_squares(model.weight, curvature(probe, ["weight"], damping=0.0)["weight"], keep)
    expected = torch.linalg.lstsq(x[:, keep], x @ model.weight.detach().T).solution.T
    assert float((best[:, keep] - expected).abs().max()) < 1e-6
    assert not bool(best[:, ~keep].any())


def test_columns_removed_one_by_one_with_the_surgeons_formula_lead_to_the_same_weight():
    w, x = randn(5, 8, seed=1), randn(40, 8)
    h = 2 * x.T @ x
    best, inverse = w.clone(), torch.linalg.inv(h)
    for q in (1, 4):
        best -= best[:, q, None] / inverse[q, q] * inverse[q]
        inverse = inverse - inverse[:, q, None] * inverse[q] / inverse[q, q]  # of H without q
    keep = torch.ones(8, dtype=torch.bool).index_fill_(0, torch.tensor([1, 4]), False)
    torch.testing.assert_close(least_squares(w, h[None], keep), best)


def test_the_cost_of_a_block_is_the_error_that_is_left():
    layer, x = nn.Conv2d(3, 4, 2, bias=False).double(), randn(6, 3, 5, 5)
    h = curvature(Probe(layer, data=[x], loss=loss), ["weight"], damping=0.0)["weight"]
    cost = removal(layer.weight, torch.linalg.inv(h), torch.arange(12).view(3, 4))
    for channel in range(3):
        keep = torch.ones(3, 2, 2, dtype=torch.bool).index_fill_(0, torch.tensor([channel]), False)
        cut = least_squares(layer.weight, h, keep)
        left = (nn.functional.conv2d(x, layer.weight - cut)).square().sum()  # H = 2 X X^T: half of it is the square
        torch.testing.assert_close(cost[channel], left.detach())


def test_damping_is_a_part_of_the_diagonals_mean():
    x, model = randn(10, 3), nn.Linear(3, 2).double()
    h = curvature(Probe(model, data=[x], loss=loss), ["weight"], damping=0.5)["weight"][0]
    plain = 2 * x.T @ x
    torch.testing.assert_close(h, plain + 0.5 * plain.diagonal().mean() * torch.eye(3).double())


def test_what_cannot_be_unfolded_is_named():
    with pytest.raises(ResproutError, match=r"ConvTranspose2d.*ignore"):
        curvature(Probe(nn.ConvTranspose2d(1, 1, 2), data=[torch.ones(1, 1, 2, 2)], loss=loss), ["weight"])


def test_inputs_that_determine_nothing_are_named():
    model = nn.Linear(4, 2).double()
    h = curvature(Probe(model, data=[randn(2, 4)], loss=loss), ["weight"], damping=0.0)["weight"]
    with pytest.raises(ResproutError, match="damping > 0"):
        inverse(torch.zeros_like(h))
    with pytest.raises(ResproutError, match="more batches"):
        least_squares(model.weight, torch.zeros_like(h), torch.tensor([True, True, False, True]))


def network() -> tuple[nn.Sequential, tuple[Group, ...]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)
    )
    units, flat = torch.arange(8)[:, None], torch.arange(6)[:, None]
    norm = [Slot(f"1.{n}", 0, units) for n in ("weight", "bias", "running_mean", "running_var")]
    first = (Slot("0.weight", 0, units), Slot("0.bias", 0, units), *norm, Slot("3.weight", 1, units))
    second = (Slot("3.weight", 0, flat), Slot("3.bias", 0, flat), Slot("6.weight", 1, torch.arange(54).view(6, 9)))
    return model, (Group("0.weight", "channel", first), Group("3.weight", "channel", second))


def test_the_score_of_a_channel_is_its_readers_cost_over_the_groups_mean():
    model, groups = network()
    probe = Probe(model, data=[randn(8, 2, 6, 6).float()], loss=loss, training=False)
    probe.groups = groups
    scores = Obspa(by="mean")(probe)
    inverted = {n: torch.linalg.inv(h) for n, h in curvature(probe, probe.names).items()}
    cost = removal(probe.weights()["3.weight"], inverted["3.weight"], torch.arange(32).view(8, 4))
    expected = (cost / cost.mean()).float()
    torch.testing.assert_close(scores["0.weight"], expected.view(8, 1, 1, 1).expand(8, 2, 3, 3))
    flat = removal(probe.weights()["6.weight"], inverted["6.weight"], torch.arange(54).view(6, 9))
    torch.testing.assert_close(scores["3.weight"][:, 0, 0, 0], (flat / flat.mean()).float())
    torch.testing.assert_close(Obspa()(probe)["3.weight"][:, 0, 0, 0], (flat / flat.sum()).float())


def test_made_up_for_is_nearer_to_the_dense_network_than_cut():
    model, groups = network()
    data = randn(128, 2, 6, 6).float()
    run = Run(model.eval(), rs.Arrays(*[(data, torch.zeros(128).long())] * 3, batch_size=32, name="noise"))  # pyright: ignore
    recalibrate(model, [lambda: model(data)])  # as training leaves its norms
    run.do(Mark("dense"))
    dense = model(data).detach()
    scores = Obspa()(Probe(model, data=[data], loss=loss, training=False))
    alive = {g.name: scores[g.name].flatten(1)[:, 0] > scores[g.name].flatten(1)[:, 0].quantile(0.3) for g in groups}
    shapes = {n: tuple(m.shape) for n, m in run.masks.items()}
    run.set_masks(Masks(spread(groups, alive, shapes)))
    cut = (run.model.eval()(data) - dense).square().mean()
    for step in Obs()(0):
        assert run.do(step)["fitted"] == ["3.weight", "6.weight"]
    made_up = (run.model.eval()(data) - dense).square().mean()
    assert made_up < cut / 2
    assert all(not bool(w[~run.masks[n]].any()) for n, w in run.weights().items())


def test_nothing_lost_nothing_fitted():
    model, _ = network()
    before = [p.clone() for p in model.parameters()]
    masks = Masks.dense(model)
    assert compensate(model, masks, Probe(model, data=[torch.ones(1, 2, 6, 6)], loss=loss)) == ()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_group_sum_adds_what_makes_and_what_reads_a_unit():
    """Two units: |row| 1 and 3, |column| 2 and 10; sums 3 and 13, together 16, mean 8."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    units = torch.arange(2)[:, None]
    probe = Probe(model)
    with torch.no_grad():
        probe.weights()["0.weight"].copy_(torch.tensor([[1.0], [-3.0]]))
        probe.weights()["1.weight"].copy_(torch.tensor([[-2.0, 10.0]]))
    probe.groups = (Group("0.weight", "channel", (Slot("0.weight", 0, units), Slot("1.weight", 1, units))),)
    assert GroupSum(by="mean")(probe)["0.weight"].flatten().tolist() == [3 / 8, 13 / 8]
    scores = GroupSum()(probe)
    assert scores["0.weight"].flatten().tolist() == [3 / 16, 13 / 16]
    assert scores["1.weight"].flatten().tolist() == [1.0, 1.0]  # the only row of its tensor
