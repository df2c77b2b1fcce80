"""Liveness: dead chains by hand, constants folded, random masks, whole layers gone, residual nets."""

import pytest
import torch
import zoo
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.graph.alike import difference, outputs
from resprout.graph.liveness import _flow, aim, applied, live, settle
from resprout.graph.remove import remove
from resprout.graph.trace import trace
from resprout.models.resnet import ResNet


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms and biases with values, as after training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.uniform_(tensor, -1, 1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    return model.eval()


@torch.no_grad()
def masked(model: nn.Module, masks: Masks, x: torch.Tensor) -> torch.Tensor:
    weights = {n: p * masks[n] for n, p in model.named_parameters() if n in masks}
    return torch.func.functional_call(model, weights, (x,))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def chain(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)
    )


def edited(model: nn.Module, **edits) -> Masks:
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    for name, at in edits.items():
        masks[name.replace("_", ".")][at] = False
    return Masks(masks)


def test_dead_in_is_dead_out_and_back():
    """Row 1 of the first layer is empty; output 2 of the second reads only it; input 4 of the last reads nothing of 3."""
    model, x = chain(bias=False), torch.randn(2, 4)
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    masks["0.weight"][1] = False
    masks["2.weight"][2, [0, 2, 3, 4]] = False
    masks["4.weight"][:, 3] = False  # nothing reads unit 3 of the second layer
    masks["2.weight"][[0, 1, 4, 5], 4] = False  # so unit 4 of the first, which else only 3 reads (2 does not live) ...
    alive = live(model, Masks(masks), trace(model, x), x)
    assert alive["0.weight"].tolist() == [True, False, True, True, False]  # ... is read by nothing
    assert alive["2.weight"].tolist() == [True, True, False, False, True, True]


def test_without_an_example_only_what_nothing_reads_is_dead():
    model, x = chain(), torch.randn(2, 4)
    masks = edited(model, **{"0_weight": 1})
    assert live(model, masks, trace(model, x))["0.weight"].all()
    assert live(model, masks, trace(model, x), x)["0.weight"].tolist() == [True, False, True, True, True]
    masks = edited(model, **{"2_weight": (slice(None), 1)})
    assert not live(model, masks, trace(model, x))["0.weight"][1]


def test_a_constant_goes_into_the_next_bias_by_hand():
    """relu(2) * 3 + 0.5 = 6.5: the constant of a unit whose row is empty."""
    model, x = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), torch.ones(1, 1)
    with torch.no_grad():
        for weight, values in (("0.bias", [2.0, 1.0]), ("2.weight", [[3.0, 4.0]]), ("2.bias", [0.5])):
            model.get_parameter(weight).copy_(torch.tensor(values))
    folded, structure, alive = settle(model, edited(model, **{"0_weight": 0}), trace(model, x), x)
    assert alive["0.weight"].tolist() == [False, True]
    small = remove(folded, structure, alive)
    assert small.get_parameter("2.bias").tolist() == [6.5]
    assert small.get_parameter("2.weight").tolist() == [[4.0]]


def test_a_reader_without_a_bias_gets_one_that_can_leave_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(6, 3)
    masks = edited(model, **{"0_weight": [0, 2], "3_weight": (slice(None), 1)})
    small = remove(*settle(model, masks, trace(model, x), x))
    assert small.get_parameter("1.bias").shape == (4,)
    torch.testing.assert_close(small(x), masked(model, masks, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("padding", "leaves"), [(0, True), (1, False)])
def test_a_constant_before_a_padded_convolution_stays(padding, leaves):
    model = lively(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=padding), nn.Flatten())
    )
    x = torch.randn(2, 2, 7, 7)
    masks = edited(model, **{"0_weight": 2})
    found = live(model, masks, trace(model, x), x)["0.weight"]
    assert bool(found[2]) is not leaves
    zero = lively(model)
    with torch.no_grad():  # a constant of zero can always leave
        for name in ("1.bias", "1.weight"):
            zero.get_parameter(name)[2] = 0
        zero.get_parameter("0.bias")[2] = 0
    assert not live(zero, masks, trace(zero, x), x)["0.weight"][2]


def random_masks(model: nn.Module, seed: int, rows: float = 0.3, layers: float = 0.15) -> Masks:
    """Single weights, whole rows, and whole layers."""
    g = torch.Generator().manual_seed(seed)
    masks = {}
    for name, full in Masks.dense(model).items():
        mask = torch.rand(full.shape, generator=g) < 0.7
        mask[torch.rand(len(full), generator=g) < rows] = False
        if float(torch.rand((), generator=g)) < layers:
            mask[:] = False
        masks[name] = mask
    return Masks(masks)


class Net(nn.Module):
    """No padding, a sum, a concatenation, a depthwise layer: constants can pass."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1)
        )
        self.wide = nn.Conv2d(8, 5, 3)
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(11 * 16, 12), nn.Tanh(), nn.Linear(12, 4))

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.a(x))
        return self.out(torch.cat([self.deep(x), self.wide(x)], 1))


@pytest.mark.parametrize("seed", range(12))
def test_random_masks_and_whole_layers_give_the_same_function(seed):
    model, x = lively(Net(), seed), torch.randn(4, 3, 8, 8)
    masks, structure = random_masks(model, seed), trace(model, torch.randn(4, 3, 8, 8))
    folded, described, alive = settle(model, masks, structure, x)
    small = remove(folded, described, alive)
    y = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert float((small(y) - masked(model, masks, y)).abs().max()) < 1e-4
    assert size(small) < size(model)
    flow = _flow(applied(model, masks), structure, x)
    assert flow.rounds <= 10
    again = live(folded, masks, described, x)  # the fixed point: nothing new
    assert all(torch.equal(again[n], a) for n, a in alive.items())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("zeroed", [True, False])
def test_norms_of_resnet20_masked_at_random_with_whole_blocks(seed, zeroed):
    """The paper's case: norms masked (here with their shift, or without); blocks killed; the padding keeps constants."""
    model, x = lively(ResNet(3), seed), torch.randn(2, 3, 16, 16)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                dead = torch.rand(len(module.weight), generator=g) < (1.0 if name == "layer2.1.bn1" else 0.4)
                module.weight[dead] = 0
                if zeroed:
                    module.bias[dead] = 0
    rows = {f"{n}.weight": m.weight == 0 for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    for name, dead in rows.items():
        masks[name.replace("bn", "conv")][dead] = False
    structure = trace(model, x)
    small = remove(*settle(model, Masks(masks), structure, x))
    y = torch.randn(3, 3, 16, 16)
    assert float((small(y).detach() - masked(model, Masks(masks), y)).abs().max()) < 1e-4
    flow = _flow(applied(model, Masks(masks)), structure, x)
    assert flow.rounds <= 10
    if zeroed:
        assert size(small) < 0.6 * size(model)
        assert small.get_parameter("layer2.1.conv1.weight").shape[0] == 1  # of a block that is gone one channel is kept


def test_a_sum_is_dead_only_where_both_of_its_makers_are():
    model, x = lively(Net()), torch.randn(2, 3, 8, 8)
    masks = edited(model, **{"stem_0.weight".replace(".", "_"): [1, 2], "a_0_weight": [2, 3]})
    assert live(model, masks, trace(model, x), x)["stem.0.weight"].tolist() == [i != 2 for i in range(8)]


def test_bad_input_is_named():
    model, x = chain(), torch.randn(2, 4)
    with pytest.raises(ResproutError, match=r"'0.weight'"):
        live(model, Masks({"0.weight": torch.ones(2, 2, dtype=torch.bool)}), trace(model, x), x)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "densenet121", "googlenet", "swin_t"])
def test_networks_of_others(name):
    model, x = zoo.MODELS[name]()
    masks = random_masks(model, 1, layers=0.05)
    small = remove(*settle(model, masks, trace(model, x), x))
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    assert difference([masked(model, masks, y)], outputs(small, y)) < 1e-4
    assert size(small) < 0.9 * size(model)


def test_a_target_is_met_by_what_really_leaves():
    """Rows by their norm, anywhere: counting dead weights misses the parameters that are left, bisection does not."""
    model, x = lively(Net()), torch.randn(2, 3, 8, 8)
    structure, total = trace(model, x), size(model)
    norms = {n: p.detach().flatten(1).norm(dim=1) for n, p in model.named_parameters() if p.dim() > 1}
    every = torch.cat(list(norms.values()))

    def choose(sparsity: float) -> Masks:
        least = every.sort().values[: round(sparsity * len(every))].max() if sparsity else torch.tensor(-1.0)
        full = Masks.dense(model)
        return Masks({n: m & (norms[n] > least).view(-1, *[1] * (m.dim() - 1)) for n, m in full.items()})

    masks, left = aim(model, structure, x, choose, total // 2)
    assert size(remove(*settle(model, masks, structure, x))) == left <= total // 2
    rows = {float(v) for v in every}  # one row fewer dead, and it is too large
    alive = sum(int((norms[n] > 0)[m.flatten(1).any(1)].sum()) for n, m in masks.items())
    before = choose(1 - (alive + 1) / len(rows))
    assert size(remove(*settle(model, before, structure, x))) > total // 2
    with pytest.raises(ResproutError, match="cannot leave 10 parameters"):
        aim(model, structure, x, choose, 10)
