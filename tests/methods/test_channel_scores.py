"""Scores of whole channels, by hand on toys of a few channels."""

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.kinds import Score
from resprout.core.probe import Moments, Probe
from resprout.core.units import Group, Slot
from resprout.methods.score.activation_mean import ActivationMean
from resprout.methods.score.apoz import Apoz
from resprout.methods.score.attention_map import AttentionMap
from resprout.methods.score.batchnorm_scale import BatchnormScale
from resprout.methods.score.filter_norm import FilterNorm
from resprout.methods.score.geometric_median import GeometricMedian
from resprout.methods.score.hrank import Hrank
from resprout.methods.score.taylor_channel import TaylorChannel
from resprout.methods.score.variance import Variance

SCORES = [
    FilterNorm(), FilterNorm(2), BatchnormScale(), GeometricMedian(), TaylorChannel(), TaylorChannel(1), ActivationMean(),
    Apoz(), Hrank(), AttentionMap(), AttentionMap(2), AttentionMap(1, "max"), Variance(),
]  # fmt: skip


def put(tensor: Tensor, values: list) -> None:
    with torch.no_grad():
        tensor.copy_(torch.tensor(values, dtype=tensor.dtype).reshape(tensor.shape))


def total(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).sum()


def per_row(score: Score, probe: Probe, name: str = "weight") -> list[float]:
    """The score of each row, which all its weights must share."""
    found = score(probe)[name].flatten(1)
    assert bool((found == found[:, :1]).all())
    return found[:, 0].tolist()


def group(name: str, units: int, *slots: tuple) -> Group:
    """A group whose slots are (parameter, dim) or (parameter, dim, index)."""
    each = torch.arange(units)[:, None]
    return Group(name, "channel", tuple(Slot(s[0], s[1], s[2] if len(s) > 2 else each) for s in slots))


# -- of the weights alone --------------------------------------------------------------------------------------------


def linear(rows: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(rows[0]), len(rows), bias=False)
    put(model.weight, rows)
    return model


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (FilterNorm(), [7, 5, 0]),
        (FilterNorm(p=2), [5, 5, 0]),
        (GeometricMedian(), [(9 + 1) ** 0.5 + 5, (9 + 1) ** 0.5 + 5, 10]),  # (3, 4), (0, 5) and the origin
    ],
)
def test_weights_by_hand(score, expected):
    assert per_row(score, Probe(linear([[3, -4], [0, -5], [0, 0]]))) == pytest.approx(expected)


def test_the_filter_at_the_geometric_median_goes_first():
    """On a line, the two in the middle are nearest to all."""
    points = [-4.0, 0.0, 1.0, 3.0]
    expected = [4 + 5 + 7, 4 + 1 + 3, 5 + 1 + 2, 7 + 3 + 2]
    assert per_row(GeometricMedian(), Probe(linear([[p] for p in points]))) == pytest.approx(expected)


def test_equal_filters_are_no_distance_apart():
    """Also for filters of great norm, where the short formula for distances cancels."""
    rows = (1e3 + torch.randn(1, 40, generator=torch.Generator().manual_seed(0))).repeat(60, 1)
    assert max(per_row(GeometricMedian(), Probe(linear(rows.tolist())))) < 1e-2


def test_rows_of_a_transposed_convolution_are_its_outputs():
    """Weights (inputs, outputs per group, ...) = (2, 2, 1) in two groups: output channels are [1, 2] of input 0, [3, 4] of 1."""
    model = nn.ConvTranspose1d(2, 4, 1, groups=2, bias=False)
    put(model.weight, [[[1], [-2]], [[3], [4]]])
    assert FilterNorm()(Probe(model))["weight"].flatten().tolist() == [1, 2, 3, 4]
    model = nn.ConvTranspose1d(2, 2, 1, bias=False)
    put(model.weight, [[[1], [2]], [[3], [4]]])
    assert FilterNorm()(Probe(model))["weight"].tolist() == [[[4], [6]], [[4], [6]]]


def test_taylor_sums_before_it_squares():
    """y = w . x summed: dL/dw is the sum of x. Rows g * w: batches (1, 1) -> 1 - 1 = 0 and 2; (3, 1) -> 3 - 1 = 2 and 4."""
    model = linear([[1, -1], [1, 1]])
    data = [torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 1.0]])]
    probe = Probe(model, data=data, loss=total)
    assert per_row(TaylorChannel(), probe) == pytest.approx([(0 + 4) / 2, (4 + 16) / 2])
    assert per_row(TaylorChannel(p=1), probe) == pytest.approx([1, 3])
    live = Probe(model, live={"weight": torch.tensor([[0.0, 3.0], [1.0, 1.0]])})
    assert per_row(TaylorChannel(), live) == pytest.approx([9, 4])


# -- batch norm ------------------------------------------------------------------------------------------------------


class Twisted(nn.Module):
    """The norms stand in the wrong order, so that only groups tell which is whose; the second layer has none."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.norm_c, self.norm_a = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        put(self.norm_a.weight, [0.5, -2])
        put(self.norm_c.weight, [3, 4])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_c(self.c(self.b(self.norm_a(self.a(x)).relu()).relu()))


def test_batchnorm_scale_finds_the_next_norm():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3))
    put(model[1].weight, [0.5, -2])
    put(model[4].weight, [0, -1, 7])
    assert per_row(BatchnormScale(), Probe(model), "0.weight") == [0.5, 2]
    assert per_row(BatchnormScale(), Probe(model), "3.weight") == [0, 1, 7]


def test_batchnorm_scale_goes_by_groups_where_there_are_any():
    """The units of `a` are swapped in its norm; `b` has no norm, which is one of scale 1."""
    probe = Probe(Twisted())
    probe.groups = (
        group("a.weight", 2, ("a.weight", 0), ("norm_a.weight", 0, torch.tensor([[1], [0]])), ("b.weight", 1)),
        group("b.weight", 2, ("b.weight", 0), ("c.weight", 1)),
        group("c.weight", 2, ("c.weight", 0), ("norm_c.weight", 0)),
    )
    assert per_row(BatchnormScale(), probe, "a.weight") == [2, 0.5]
    assert per_row(BatchnormScale(), probe, "b.weight") == [1, 1]
    assert per_row(BatchnormScale(), probe, "c.weight") == [3, 4]


def test_batchnorm_scale_takes_the_norm_behind_each_layer_of_a_sum():
    """Two layers make the same channels, each with its own norm."""
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    put(model[1].weight, [1, 2])
    put(model[3].weight, [3, 4])
    probe = Probe(model)
    probe.groups = (group("0.weight", 2, *((f"{i}.weight", 0) for i in range(4))),)
    assert [per_row(BatchnormScale(), probe, n) for n in ("0.weight", "2.weight")] == [[1, 2], [3, 4]]


def test_batchnorm_scale_needs_a_norm():
    with pytest.raises(ResproutError, match="filter_norm"):
        BatchnormScale()(Probe(nn.Linear(2, 2)))


# -- activations -----------------------------------------------------------------------------------------------------


def toy() -> nn.Sequential:
    """Channels x, -x and the constant -10 of one input channel, after ReLU read by a layer of one output."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1))
    put(model[0].weight, [1, -1, 0])
    put(model[0].bias, [0, 0, -10])
    return model


IMAGES = [  # two batches of unlike size; the values are 1 -2 / 3 0, and 2 2 / 2 2 twice
    torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]]),
    torch.full((2, 1, 2, 2), 2.0),
]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (ActivationMean(), [(1 + 3 + 16) / 12, 2 / 12, 0]),
        (Apoz(), [(2 + 8) / 12, 1 / 12, 0]),
        (AttentionMap(), [20 / 12, 2 / 12, 0]),
        (AttentionMap(p=2), [(1 + 9 + 32) / 12, 4 / 12, 0]),
        (AttentionMap(over="max"), [(3 + 2 + 2) / 3, 2 / 3, 0]),
        (Hrank(), [(1 + 1 + 1) / 3, 1 / 3, 0]),  # (1 0 / 3 0) has rank 1, as have maps of twos
        (Variance(), [42 / 12 - (20 / 12) ** 2, 4 / 12 - (2 / 12) ** 2, 0]),
    ],
)
def test_activations_by_hand(score, expected, grouped):
    probe = Probe(toy(), data=IMAGES, loss=total)
    if grouped:
        probe.groups = (group("0.weight", 3, ("0.weight", 0), ("0.bias", 0), ("2.weight", 1)),)
    assert per_row(score, probe, "0.weight") == pytest.approx(expected, abs=1e-7)


@torch.no_grad()
def test_a_filter_that_never_fires_goes_first_and_for_nothing():
    """The catalogue's check of `aap`: a filter with the bias -10 has no attention, and without it the output is the same."""
    model = toy()
    before = [model(x) for x in IMAGES]
    masks = rs.prune(
        model, 1 / 3, score="attention_map", granularity="channel", data=IMAGES, loss=total, example=IMAGES[0]
    )
    assert masks["0.weight"].flatten().tolist() == [True, True, False]
    assert all(torch.equal(model(x), y) for x, y in zip(IMAGES, before, strict=True))


def test_rank_tells_a_full_map_from_a_flat_one():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    put(model[0].weight, [[1, 0], [0, 1]])
    image = torch.stack([torch.eye(5), torch.ones(5, 5)])[None]
    probe = Probe(model, data=[image], loss=total)
    assert per_row(Hrank(), probe, "0.weight") == [5, 1]


def test_the_view_is_behind_norm_and_activation_of_any_kind():
    """GELU of a batch norm in use, and a unit that the next layer reads in reverse order: one number, by hand."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2), nn.GELU(), nn.Linear(2, 1))
    put(model[0].weight, [1, 2])
    put(model[1].running_mean, [1, 0])
    put(model[1].weight, [3, 5])
    probe = Probe(model, data=[torch.tensor([[2.0]])], loss=total, training=False)
    probe.groups = (group("0.weight", 2, ("0.weight", 0), ("1.weight", 0), ("3.weight", 1)),)
    expected = nn.functional.gelu(torch.tensor([3 * (2 - 1), 5 * 4.0]) / (1 + 1e-5) ** 0.5)
    assert per_row(ActivationMean(), probe, "0.weight") == pytest.approx(expected.tolist())


def test_a_flattened_channel_is_all_its_positions():
    """The linear layer reads 2 x 2 positions of each of two channels: unit 0 is x, unit 1 is 2 x."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    put(model[0].weight, [1, 2])
    probe = Probe(model, data=IMAGES, loss=total)
    columns = torch.arange(8).view(2, 4)
    probe.groups = (group("0.weight", 2, ("0.weight", 0), ("3.weight", 1, columns)),)
    assert per_row(ActivationMean(), probe, "0.weight") == pytest.approx([20 / 12, 40 / 12])
    assert per_row(Variance(), probe, "0.weight") == pytest.approx([26 / 36, 104 / 36])
    assert per_row(Hrank(), probe, "0.weight") == [1, 1]  # of the maps themselves, before the flattening


def test_a_unit_of_a_grouped_reader_is_read_in_every_group():
    """Two groups of two inputs each: in-group position 0 is channels 0 and 2, position 1 channels 1 and 3."""
    model = nn.Sequential(nn.Conv1d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv1d(4, 2, 1, groups=2))
    put(model[0].weight, [1, 2, 3, 4])
    probe = Probe(model, data=[torch.ones(1, 1, 1)], loss=total)
    probe.groups = (group("0.weight", 2, ("0.weight", 0, torch.tensor([[0, 2], [1, 3]])), ("2.weight", 1)),)
    assert per_row(ActivationMean(), probe, "0.weight") == [2, 3, 2, 3]


def test_each_layer_of_a_sum_is_seen_by_the_first_reader_behind_it():
    """y = a(x), y = y + b(relu(y)), c(relu(y)): `a` is seen by b, `b` by c."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(2, 2, bias=False) for _ in range(3))
            put(self.a.weight, [[1, 0], [0, -1]])
            put(self.b.weight, [[2, 0], [0, 2]])

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y = y + self.b(y.relu())
            return self.c(y.relu())

    probe = Probe(Sum(), data=[torch.ones(1, 2)], loss=total)
    probe.groups = (group("a.weight", 2, ("a.weight", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1)),)
    assert per_row(ActivationMean(), probe, "a.weight") == [1, 0]
    assert per_row(ActivationMean(), probe, "b.weight") == [3, 0]


def test_of_whole_layers_the_rows_are_seen_as_without_groups():
    """The channels that no group holds and no layer loses are not looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    put(model[1].weight, [1, -2, 3])
    probe = Probe(model, data=[torch.randn(5, 2)], loss=total, training=False)
    plain = [per_row(s, probe, "0.weight") for s in (ActivationMean(), BatchnormScale())]
    probe.groups = (Group("first", "layer", (Slot("0.weight", 0, torch.arange(3)[None]),)),)
    assert [per_row(s, probe, "0.weight") for s in (ActivationMean(), BatchnormScale())] == plain
    assert plain[1] == [1, 2, 3]
    assert per_row(ActivationMean(), probe, "3.weight") == [0, 0]


def test_what_cannot_be_seen_is_named():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.layer.weight)

    probe = Probe(Functional(), data=[torch.ones(1, 2)], loss=total)
    with pytest.raises(ResproutError, match=r"ignore=\['layer.weight'\]"):
        ActivationMean()(probe)


class Residual(nn.Module):
    """A sum, a depthwise convolution, a flattening: 6 channels in one group, 8 in another, 3 in a third."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.up, self.up_norm = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.deep_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.down, self.down_norm = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.last, self.head = nn.Conv2d(6, 3, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        y = self.deep_norm(self.deep(self.up_norm(self.up(x)).relu())).relu()
        x = (x + self.down_norm(self.down(y))).relu()
        return self.head(nn.functional.max_pool2d(self.last(x).relu(), 2).flatten(1))


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_channels_leave_by_every_score(score, loss):
    """Six of 17 channels go, and what is theirs goes with them, whatever the network computes from it."""
    torch.manual_seed(0)
    model = Residual().eval()
    data = [(torch.randn(4, 2, 4, 4), torch.randint(5, (4,))) for _ in range(2)]
    masks = rs.prune(
        model, 6 / 17, score=score, granularity="channel", floor=1, data=data, loss=loss, example=data[0][0]
    )
    rows = {n: int(m.flatten(1).any(1).sum()) for n, m in masks.items()}
    assert rows["stem.weight"] == rows["down.weight"]
    assert rows["up.weight"] == rows["deep.weight"]
    assert rows["stem.weight"] + rows["up.weight"] + rows["last.weight"] == 11
    assert int(masks["head.weight"].any(0).sum()) == 4 * rows["last.weight"]
    assert min(rows.values()) > 0


@pytest.mark.parametrize("score", [ActivationMean(), Apoz(), Hrank(), AttentionMap(), Variance(), TaylorChannel()])
def test_data_is_asked_for(score):
    with pytest.raises(ResproutError, match="pass data="):
        score(Probe(toy()))


@pytest.mark.parametrize("build", [lambda: FilterNorm(3), lambda: TaylorChannel(0), lambda: AttentionMap(over="sum")])
def test_bad_arguments(build):
    with pytest.raises(ResproutError, match="must be"):
        build()


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_all_say_rows_and_keep_to_them(score, tiny, batches, loss):
    assert type(score).rows
    probe = Probe(tiny, data=batches, loss=loss)
    for name in probe.names:
        assert len(per_row(score, probe, name)) == len(probe.weights()[name])


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose2d, nn.Conv3d])
def test_every_kind_of_convolution_is_seen(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(2, 4, 3, padding=1), nn.ReLU(), kind(4, 3, 3, padding=1))
    x = torch.randn(2, 2, *[4] * (model[0].weight.dim() - 2))
    probe = Probe(model, data=[x], loss=total)
    dims = (1, 0) if kind is nn.ConvTranspose2d else (0, 1)
    probe.groups = (group("0.weight", 4, ("0.weight", dims[0]), ("2.weight", dims[1])),)
    hidden = model[:2](x).transpose(0, 1).flatten(1).double()
    rows = ActivationMean()(probe)["0.weight"].transpose(0, dims[0]).flatten(1)
    torch.testing.assert_close(rows, hidden.mean(1).float()[:, None].expand_as(rows))
    rows = Variance()(probe)["0.weight"].transpose(0, dims[0]).flatten(1)
    torch.testing.assert_close(rows, hidden.var(1, correction=0).float()[:, None].expand_as(rows))


def test_moments_merge_exactly():
    """Pieces of unlike length, far from zero: float64 merged agrees with all at once."""
    g = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(3, 1000, generator=g).double()
    moments = Moments()
    for piece in x.split([1, 499, 7, 493], dim=1):
        moments.add(piece)
    mean, variance = moments.result()
    torch.testing.assert_close(mean, x.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, x.var(1, correction=0), rtol=1e-9, atol=0)
