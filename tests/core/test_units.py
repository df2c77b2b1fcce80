"""Blocks and coupled units: pooled scores, exact counts, nesting, and coming back in every slot, by hand."""

import copy

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.granularity import Block, Units, parse
from resprout.core.kinds import Scores
from resprout.core.masks import Masks
from resprout.core.units import Group, Slot, living, spread
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.uniform import Uniform

MLP = Group(
    "0.weight",
    "channel",
    (Slot("0.weight", 0, torch.arange(3)[:, None]), Slot("2.weight", 1, torch.arange(3)[:, None])),
)


def mlp() -> nn.Sequential:
    """2 -> 3 -> 1; the weights of its hidden units: (1, 2 | 3), (0, 1 | 1), (2, 2 | 0)."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 1.0], [2.0, 2.0]]))
        net[2].weight.copy_(torch.tensor([[3.0, -1.0, 0.0]]))
    return net


def scores(net, **more) -> Scores:
    return Scores({n: p.detach().abs() for n, p in net.named_parameters() if p.dim() > 1}, groups=(MLP,), **more)


def test_a_unit_is_worth_what_its_weights_sum_to_wherever_they_sit():
    pooled = Units()._pool(scores(mlp()), [MLP])["0.weight"]
    assert pooled.tolist() == [6, 2, 4]
    pooled = Units()._pool(scores(mlp(), order=2), [MLP])["0.weight"]
    assert pooled.tolist() == pytest.approx([14**0.5, 2**0.5, 8**0.5])
    pooled = Units(normalise=True)._pool(scores(mlp()), [MLP])["0.weight"]
    assert pooled.tolist() == [1.5, 0.5, 1.0]


def test_a_score_of_rows_is_the_mean_over_the_weights_that_make_the_unit():
    pooled = Units()._pool(scores(mlp(), rows=True, makes=frozenset({("0.weight", 0)})), [MLP])["0.weight"]
    assert pooled.tolist() == [1.5, 0.5, 2.0]


def test_channels_die_and_come_back_in_every_slot():
    net, x = mlp(), torch.randn(4, 2)
    dense = copy.deepcopy(net)
    masks = rs.prune(net, 2 / 3, granularity="channel", example=x)
    assert masks["0.weight"].tolist() == [[True, True], [False, False], [False, False]]
    assert masks["2.weight"].tolist() == [[True, False, False]]
    assert net[2].weight.tolist() == [[3, 0, 0]]
    assert [p.shape for p in rs.shrink(net, masks, x).parameters()] == [(1, 2), (1,), (1, 1), (1,)]
    masks = rs.regrow(
        net, masks, 1 / 3, granularity="channel", example=x, score="magnitude", anchor=dense, fill="anchor"
    )
    assert masks["0.weight"].all(1).tolist() == [True, True, False]  # dead weights have no magnitude: the first
    masks = rs.regrow(net, masks, 0, granularity="channel", example=x, score="random", anchor=dense, fill="anchor")
    assert masks.sparsity == 0
    assert all(torch.equal(t, dense.state_dict()[n]) for n, t in net.state_dict().items())


def test_what_is_dead_within_a_unit_that_lives_stays_dead():
    net, x = mlp(), torch.randn(4, 2)
    masks = rs.prune(net, 2 / 9)  # both zeros: one of unit 1, one of unit 2
    assert not masks["0.weight"][1, 0]
    fewer = rs.prune(net, 1 / 3, granularity="channel", example=x, masks=masks)
    assert fewer <= masks
    assert fewer["2.weight"].tolist() == [[True, False, False]]
    grown = rs.regrow(net, fewer, 0, granularity="channel", example=x, score="random")
    assert grown["0.weight"].all()  # unit 1 had left whole, and comes back whole
    assert grown["2.weight"].tolist() == [[True, True, False]]


def test_norms_and_biases_come_back_with_the_anchors_values():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    dense, x = copy.deepcopy(net), torch.randn(2, 1, 4, 4)
    masks = rs.prune(net, 1 / 3, granularity="channel", example=x)
    with torch.no_grad():
        for tensor in (net[0].bias, net[1].weight, net[1].running_var):
            tensor.add_(1)
    (unit,) = [i for i, alive in enumerate(masks["0.weight"].flatten().tolist()) if not alive]
    rs.regrow(net, masks, 0, granularity="channel", example=x, score="random", anchor=dense, fill="anchor")
    for own, old in (
        (net[0].bias, dense[0].bias),
        (net[1].weight, dense[1].weight),
        (net[1].running_var, dense[1].running_var),
    ):
        assert (own == old).tolist() == [i == unit for i in range(3)]


def test_living_and_spread_are_each_others_inverse():
    alive = {"0.weight": torch.tensor([True, False, True])}
    masks = spread([MLP], alive, {"0.weight": (3, 2), "2.weight": (1, 3)})
    assert masks["2.weight"].tolist() == [[True, False, True]]
    assert living([MLP], masks)["0.weight"].tolist() == [True, False, True]


def test_prices_count_where_they_are_asked_for():
    wide = Group("a", "channel", (Slot("a", 0, torch.arange(2)[:, None]),))
    narrow = Group("b", "channel", (Slot("b", 0, torch.arange(2)[:, None]),))
    tensors = {"a": torch.full((2, 10), 0.3), "b": torch.full((2, 1), 1.0)}  # units worth 3 and 1
    found = Scores(tensors, groups=(wide, narrow))
    prices = {"a": 1.0, "b": 1.0}  # units cost 10 and 1
    plain = Units().choose(found, 2, Global(), prices=prices)
    assert (plain.counts["a"], plain.counts["b"]) == (20, 0)
    priced = Units(priced=True).choose(found, 2, Global(), prices=prices)
    assert (priced.counts["a"], priced.counts["b"]) == (0, 2)


def test_blocks_by_hand():
    weight = torch.tensor([[4.0, 1.0], [0.0, 1.0], [1.0, 3.0], [1.0, 0.0], [9.0, 0.0]])  # tiles of 2: 4 2 | 2 3 | 9 0
    for keep, expected in ((1, [9]), (2, [9, 4]), (3, [9, 4, 3])):
        masks = Block(2, 1).choose(Scores({"w": weight}), keep, Global())
        assert Block(2, 1).units(masks).alive == keep
        assert float(weight[masks["w"]].sum()) == sum(expected)
    small = Block(2, 1).choose(Scores({"w": weight}), 2, Global())
    large = Block(2, 1).choose(Scores({"w": weight}, ~small, small), 4, Global())
    assert small <= large
    assert Block(2, 1).units(large).alive == 4
    assert Block(1, 2)._tiles(torch.ones(3, 5, 2)).shape == (3, 3, 2)


@pytest.mark.parametrize("granularity", ["block:4x1", "block:2x2", "2:4", "channel"])
@pytest.mark.parametrize("score", ["magnitude", "taylor", "random"])
def test_every_granularity_meets_its_count_both_ways(granularity, score, tiny, batches, loss):
    units, x = parse(granularity), batches[0][0]
    dense, given = copy.deepcopy(tiny), {"score": score, "data": batches, "loss": loss, "granularity": granularity}
    half = rs.prune(tiny, 0.5, **given, example=x, ignore=["0"] if granularity == "2:4" else ())
    groups = rs.trace(tiny, x).groups
    alive = units.units(half, groups)
    assert alive.alive == alive.total - round(0.5 * alive.total)
    if granularity != "2:4":
        more = rs.regrow(tiny, half, 0.25, **given, example=x, anchor=dense, fill="anchor")
        assert half <= more
        assert units.units(more, groups).alive == alive.total - round(0.25 * alive.total)


@pytest.mark.parametrize("allocate", ["global", "uniform", "lamp", "erk", "er", "uniform_plus"])
def test_every_allocation_spreads_channels(allocate, tiny, batches):
    masks = rs.prune(tiny, 0.5, granularity="channel", allocate=allocate, example=batches[0][0], floor=1)
    alive = Units().units(masks, rs.trace(tiny, batches[0][0]).groups)
    assert alive.alive == alive.total - round(0.5 * alive.total)
    assert min(alive.counts.values()) >= 1


def test_targets_and_ignore_are_the_layers_that_make_the_units(tiny, batches):
    x = batches[0][0]
    groups = {g.name: len(g) for g in rs.trace(tiny, x).groups}
    assert set(groups) == {"0.weight", "4.weight"}
    masks = rs.prune(copy.deepcopy(tiny), 0.5, granularity="channel", example=x, ignore=["4"])
    assert masks.counts["6.weight"] == 48  # which reads what layer 4 makes
    assert masks.counts["4.weight"] < 128  # which reads what layer 0 makes
    masks = rs.prune(copy.deepcopy(tiny), 0.5, granularity="channel", example=x, targets=["4"])
    assert masks.counts["0.weight"] == 72
    with pytest.raises(ResproutError, match="found no channels"):
        rs.prune(tiny, 0.5, granularity="channel", example=x, targets=["6"])


def test_a_unit_that_an_unmasked_weight_reads_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return self.a(x).sigmoid() @ self.b

    with pytest.raises(ResproutError, match="found no channels"):
        rs.prune(Net(), 0.5, granularity="channel", example=torch.randn(1, 3))


# -- bad input ------------------------------------------------------------------------------------------------------


def test_what_is_missing_or_unknown_is_named(tiny):
    with pytest.raises(ResproutError, match="needs example="):
        rs.prune(tiny, 0.5, granularity="channel")
    with pytest.raises(ResproutError, match="found no heads"):
        rs.prune(tiny, 0.5, granularity="head", example=torch.randn(2, 2, 4, 4))
    for wrong in ("channels", "block:4", "block:0x1", "filter"):
        with pytest.raises(ResproutError, match="unknown granularity"):
            parse(wrong)
    with pytest.raises(ResproutError, match="NaN or infinity"):
        Units().choose(Scores({"0.weight": torch.full((3, 2), torch.nan)}, groups=(MLP,)), 1, Uniform())
    net, x = mlp(), torch.randn(1, 2)
    masks = rs.prune(net, 1 / 3, granularity="channel", example=x)
    with pytest.raises(ResproutError, match=r"cannot prune to 3 channels alive: 2 are"):
        rs.prune(net, 0, granularity="channel", example=x, masks=masks)


def test_masks_are_ordinary():
    assert isinstance(rs.prune(mlp(), 1 / 3, granularity="channel", example=torch.randn(1, 2)), Masks)
