"""Whole layers: which branches there are, counted by hand, and that they leave, come back and are saved exactly."""

import copy

import pytest
import torch
import zoo
import zoo_cnn
from torch import nn
from torch.nn.functional import relu

import resprout as rs
from resprout.core.errors import CheckpointError, ResproutError
from resprout.core.masks import Masks
from resprout.core.units import spread
from resprout.graph.alike import difference, outputs
from resprout.graph.shape import Shape, shape_of
from resprout.graph.skip import Pass, Skip, stand_in
from resprout.graph.structure import Structure
from resprout.graph.trace import trace

try:
    import zoo_hf
except ImportError:  # transformers is not installed, and no dependency
    zoo_hf = None

# By hand: blocks whose shortcut is the identity; in transformers one of attention and one of the MLP in each layer.
BRANCHES = {
    "resnet50": 1,  # a third of the depth: 1, 1, 2, 1 blocks, and the first of each stage has another shortcut
    "resnext50": 1,
    "mobilenet_v2": 5,
    "mobilenet_v3": 10,  # of 15 blocks those of stride 1 that keep the width
    "efficientnet_b0": 4,
    "convnext_t": 6,  # 1, 1, 3, 1 blocks
    "densenet121": 0,
    "shufflenet_v2": 0,
    "googlenet": 0,
    "espcn": 0,
    "unet": 0,
    "swin_t": 12,
    "deit_s": 4,
    "lenet_300_100": 0,
    "digits_cnn": 0,
    "resnet20": 7,  # 9 blocks, and two halve the image
    "vgg16": 0,
    "vit_tiny_p4": 12,
}
BRANCHES_HF = {
    "bert": 4, "gpt2": 4, "opt": 4, "llama": 4, "qwen2": 4, "mistral": 4, "vit": 4, "deit": 4,
    "t5": 10, "t5_gated": 10, "whisper": 10,  # two encoder layers of 2 and two decoder layers of 3
    "clip": 8,  # two towers
    "wavlm": 3,  # the first attention makes the positions of all others
    "mamba": 2,  # a mixer in each layer
}  # fmt: skip
HF = [
    pytest.param(n, marks=[] if zoo_hf else pytest.mark.skip(reason="needs transformers"), id=f"hf-{n}")
    for n in BRANCHES_HF
]
DECODERS = ["gpt2", "llama", "mistral", "t5", "whisper", "mamba"]


def build(name: str, request) -> tuple[nn.Module, object]:
    hugging = "hf-" in request.node.callspec.id
    return (zoo_hf.HF if hugging and zoo_hf else zoo.MODELS)[name]()


def alive_but(structure: Structure, gone: set[str]) -> dict[str, torch.Tensor]:
    return {g.name: torch.full((len(g),), g.name not in gone) for g in structure.groups}


def masks_of(model: nn.Module, structure: Structure, alive: dict[str, torch.Tensor]) -> Masks:
    return Masks(spread(structure.groups, alive, {n: m.shape for n, m in Masks.dense(model).items()}))


@torch.no_grad()
def under(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy with the dead weights zero: biases and norms stay."""
    twin = copy.deepcopy(model)
    for name, parameter in twin.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])
    return twin


def without_channels(model: nn.Module, structure: Structure, alive: dict[str, torch.Tensor]) -> None:
    """Zeros in all slots of dead channels, biases and norms too."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for group in (g for g in structure.groups if g.kind != "layer"):
            for slot in group.slots:
                tensors[slot.parameter].index_fill_(slot.dim, slot.index[~alive[group.name]].flatten(), 0)


@pytest.mark.parametrize("name", [*BRANCHES, *HF])
def test_branches_are_those_counted_by_hand_and_leave_with_channels_or_without(name, request):
    """For random subsets: the masked model computes what the smaller one does, and all comes back bit for bit."""
    model, x = build(name, request)
    structure = trace(model, x, layers=True)
    layers = [g for g in structure.groups if g.kind == "layer"]
    expected = BRANCHES_HF[name] if "hf-" in request.node.callspec.id else BRANCHES[name]
    assert [g.name for g in layers] == [b.name for b in structure.layers]
    assert len({g.name for g in structure.groups}) == len(structure.groups)
    assert len(layers) == expected, structure.kept_layers
    g = torch.Generator().manual_seed(0)
    for channels in (False, True) if layers else ():
        drawn = torch.rand(len(layers), generator=g)
        gone = {b.name for b, draw in zip(layers, drawn, strict=True) if draw <= drawn.median()}
        alive = alive_but(structure, gone)
        for group in structure.groups if channels else ():
            if group.kind != "layer" and len(group) > 1:
                alive[group.name][int(torch.randint(len(group), (), generator=g))] = False
        masks = masks_of(model, structure, alive)
        masked = under(model, masks)
        without_channels(masked, structure, alive)
        small = rs.shrink(masked, masks, structure=structure)
        assert difference(outputs(masked, x), outputs(small, x)) < 1e-4
        assert difference(outputs(model, x), outputs(small, x)) > 1e-3
        left = dict(small.named_parameters())
        zeros = rs.expand(small, like=model, zeros=True)
        assert difference(outputs(masked, x), outputs(zeros, x)) < 1e-4
        assert not any(n in left for b in structure.layers if b.name in gone for n in b.weights)
        back = rs.expand(rs.shrink(model, masks, structure=structure), like=model)
        assert all(
            torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: zoo_cnn.resnet50(width=0.0625, classes=5), 12),  # 3, 4, 6, 3 blocks less four
        (lambda: zoo_cnn.convnext_t(width=0.125, classes=5), 18),  # 3, 3, 9, 3 blocks
        (lambda: zoo_cnn.mobilenet_v2(width=0.5, classes=5), 10),  # 17 blocks less seven
        (lambda: rs.models.build("resnet56"), 25),  # 27 blocks less two
    ],
)
def test_branches_of_the_published_depths(build, count):
    torch.manual_seed(0)
    structure = trace(build().eval(), torch.randn(2, 3, 32, 32), layers=True)
    assert len(structure.layers) == count
    assert structure.kept_layers == {}


@pytest.mark.skipif(zoo_hf is None, reason="needs transformers")
@pytest.mark.parametrize("name", DECODERS)
def test_a_language_model_without_its_first_layer_goes_on_generating(name):
    """With the cache, too: it counts positions by its first layer."""
    assert zoo_hf is not None
    model, x = zoo_hf.HF[name]()
    structure = trace(model, x, layers=True)
    first = next(b for b in structure.layers if "decoder" in b.name or name not in ("t5", "whisper"))
    masks = masks_of(model, structure, alive_but(structure, {first.name}))
    masked, small = under(model, masks), rs.shrink(model, masks, structure=structure)
    given = {n: v for n, v in x.items() if not n.startswith("decoder")}
    asked = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    wished = masked.generate(**given, **asked, use_cache=False)
    for cache in (False, True):
        assert torch.equal(small.generate(**given, **asked, use_cache=cache), wished)


# -- the core verbs -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block whose weights are all `scale`, but for signs."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            for conv in (self.conv1, self.conv2):
                conv.weight.copy_(scale * conv.weight.sign())

    def forward(self, x):
        out = relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.conv2(out)
        out += x
        return relu(out, inplace=True)


def blocks(*scales: float, inputs: int = 3) -> nn.Sequential:
    """A stem, a block of each scale, and a head."""
    torch.manual_seed(0)
    body = [Block(4, s) for s in scales]
    return nn.Sequential(nn.Conv2d(inputs, 4, 3), nn.ReLU(), *body, nn.AvgPool2d(6), nn.Flatten(), nn.Linear(4, 10))


def dead(masks: Masks) -> list[int]:
    """The blocks of which nothing is left."""
    return sorted({int(n.split(".")[0]) - 2 for n, k in masks.counts.items() if k == 0})


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("allocate", ["global", "uniform", "erk", "lamp"])
@pytest.mark.parametrize("floor", [0, 1])
def test_prune_kills_the_exact_number_and_the_lowest_of_all_layers(allocate, floor, recwarn):
    model = blocks(0.4, 0.1, 0.3, 0.2, 0.6, 0.5, 0.7, 0.8)
    masks = rs.prune(model, 0.25, granularity="layer", example=X, allocate=allocate, floor=floor)
    assert dead(masks) == [1, 3]
    assert not [w for w in recwarn if issubclass(w.category, rs.LayerDied)]  # the input passes them by
    masks = rs.prune(model, 0.5, granularity="layer", example=X, allocate=allocate, floor=floor, masks=masks)
    assert dead(masks) == [0, 1, 2, 3]
    assert all(k in (0, m.numel()) for m, k in zip(masks.values(), masks.counts.values(), strict=True))


@pytest.mark.parametrize(
    "score", ["magnitude", "group_sum", "filter_norm", "geometric_median", "taylor_channel", "random"]
)
def test_prune_kills_the_exact_number_by_every_kind_of_score(score):
    model, batch = blocks(0.4, 0.1, 0.3, 0.2, 0.5), (X, torch.tensor([1, 2]))
    given = {"data": [batch], "loss": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])}
    masks = rs.prune(model, 0.4, score=score, granularity="layer", example=X, **given)
    assert len(dead(masks)) == 2
    if score in ("magnitude", "filter_norm"):
        assert dead(masks) == [1, 3]


def test_no_layer_is_left_and_floor_keeps_one():
    model = blocks(0.3, 0.1, 0.2)
    assert dead(rs.prune(copy.deepcopy(model), 1.0, granularity="layer", example=X)) == [0, 1, 2]
    with pytest.raises(ResproutError, match="floor"):
        rs.prune(model, 1.0, granularity="layer", example=X, floor=1)
    with pytest.raises(ResproutError, match="found no layers"):
        rs.prune(nn.Sequential(nn.Linear(4, 4)), 0.5, granularity="layer", example=torch.randn(2, 4))


def test_all_layers_come_back_with_the_dense_values_bit_for_bit():
    """Their biases and norms too, whatever has become of them meanwhile."""
    model = blocks(0.4, 0.1, 0.3, 0.2).eval()
    dense, before = copy.deepcopy(model), outputs(model, X)
    structure = trace(model, X, layers=True)
    masks = rs.prune(model, 1.0, granularity="layer", example=structure)
    with torch.no_grad():
        for block in model[2:6]:
            block.conv2.bias.add_(1)
            block.norm1.running_mean.add_(1)
    given = {"granularity": "layer", "example": structure, "fill": "anchor", "anchor": dense}
    given |= {"data": [X], "loss": lambda model, batch: model(batch).square().mean()}
    some = rs.regrow(model, masks, 0.5, **given)
    assert len(dead(some)) == 2
    assert masks <= some
    every = rs.regrow(model, some, 0.0, **given)
    assert every.alive == every.total
    assert torch.equal(outputs(model, X)[0], before[0])


def test_channels_that_were_dead_in_the_stream_stay_dead_when_a_layer_comes_back():
    model = blocks(0.4, 0.1, 0.3)
    structure = trace(model, X, layers=True)
    stream = next(g for g in structure.groups if g.name == "0.weight")
    alive = alive_but(structure, {"3"})
    alive[stream.name][2] = False
    masks = masks_of(model, structure, alive)
    grown = rs.regrow(model, masks, 0.0, score="magnitude", granularity="layer", example=structure)
    assert torch.equal(grown["3.conv2.weight"].flatten(1).any(1), torch.tensor([True, True, False, True]))
    assert grown["3.conv1.weight"][:, [0, 1, 3]].all()


def test_channels_go_on_where_layers_are_dead():
    """The channels within a dead layer are no obstacle, and none of theirs is counted as alive."""
    model = blocks(0.4, 0.1, 0.3).eval()
    masks = rs.prune(model, 0.33, granularity="layer", example=X)
    masks = rs.prune(model, 0.5, granularity="channel", example=X, floor=1, masks=masks)
    small = rs.shrink(model, masks, X)  # finds out by itself that a layer is dead
    assert isinstance(small[3].conv2, Skip)
    assert isinstance(small[3].conv1, Pass)
    assert isinstance(small[4].conv1, nn.Conv2d)


def test_a_weight_that_no_mask_knows_keeps_its_layer():
    model = blocks(0.4, 0.1)
    structure = trace(model, X, layers=True)
    masks = rs.prune(copy.deepcopy(model), 1.0, granularity="layer", example=structure, ignore=["3.conv2"])
    assert dead(masks) == [0]
    masks = rs.prune(model, 1.0, granularity="layer", example=structure)
    known = Masks({n: m for n, m in masks.items() if n != "3.conv2.weight"})
    with pytest.raises(rs.LayerDied, match=r"3.conv1"):
        rs.shrink(model, known, structure=structure)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vit_tiny_p4", *HF[:4]])
def test_a_file_holds_what_is_left_and_loads_into_the_dense_network(name, request, tmp_path):
    model, x = build(name, request)
    structure = trace(model, x, layers=True)
    masks = masks_of(model, structure, alive_but(structure, {b.name for b in structure.layers[::2]}))
    small = rs.shrink(model, masks, structure=structure)
    shape = shape_of(small)
    assert shape is not None
    assert Shape.from_text(shape.to_text()) == shape
    saved = rs.save(tmp_path / "small", small, values="fp32")
    assert saved < 0.9 * rs.save(tmp_path / "dense", model, values="fp32")
    fresh, _ = build(name, request)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    loaded = rs.load(tmp_path / "small", fresh)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded, x), outputs(small, x), strict=True))
    back = rs.expand(loaded, like=model)
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outputs(copy.deepcopy(small), x), outputs(small, x), strict=True))


def test_devices_run_a_network_without_layers(tmp_path):
    model, x = zoo.MODELS["resnet20"]()
    masks = rs.prune(model, 0.5, granularity="layer", example=x)
    small = rs.shrink(model, masks, x)
    rs.save(tmp_path / "small", small, values="fp32", example=x)
    out = torch.from_numpy(rs.Runtime(tmp_path / "small")(x.numpy()))
    assert torch.allclose(out, model(x), atol=1e-3)


@pytest.mark.parametrize("kind", ["end", "end:-1:2", "end:4:99", "end:x:1", "stay", "pass:0", "end:100000000:1"])
def test_a_damaged_shape_says_not_what_stands_in(kind, tmp_path):
    with pytest.raises(ResproutError, match="stands for a layer"):
        stand_in(nn.Linear(2, 2), kind)
    model = blocks(0.1, 0.2).eval()
    small = rs.shrink(model, rs.prune(model, 0.5, granularity="layer", example=X), X)
    shape = shape_of(small)
    assert shape is not None
    shape.skipped["2.conv2"] = kind
    rs.save(tmp_path / "file", small)
    with pytest.raises(CheckpointError, match="stands for a layer"):
        rs.load(tmp_path / "file", blocks(0.1, 0.2))


# -- what can be found, and what cannot -------------------------------------------------------------------------------


class Sum(nn.Module):
    """x + f(x), f as given."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return self.branch(x) + x

    def branch(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Nested(Sum):
    """Two residual blocks in a residual block."""


class Beside(Sum):
    """x + f(x) + g(x)."""

    def forward(self, x):
        return x + self.parts[0](x) + self.parts[1](x)


class Gate(Sum):
    """x + f(x) g(x): no module is the end."""

    def branch(self, x):
        return self.parts[0](x) * self.parts[1](x)


class Pooled(Sum):
    """Adds a mean of the input to what f makes of it."""

    def branch(self, x):
        return self.parts[0](x) + x.mean(1, keepdim=True)


class Leaking(Sum):
    """The hidden values are used once more."""

    def forward(self, x):
        h = self.parts[0](x)
        return torch.cat([x + self.parts[1](h), h], 1)


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("make", "names", "reason"),
    [
        (lambda: Sum(linear(), nn.ReLU(), linear()), [""], ""),
        (lambda: Sum(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), nn.LayerNorm(4)), [""], ""),
        (lambda: Nested(Sum(linear()), Sum(linear(), nn.Tanh())), ["parts.0", "parts.1"], ""),
        (lambda: Sum(Gate(linear(), linear()), linear()), [""], ""),  # within it is one that cannot
        (lambda: Beside(linear(), linear()), ["parts.0", "parts.1"], ""),
        (lambda: Gate(linear(), linear()), [], "no module is its end"),
        (lambda: Pooled(linear()), [], "more than a constant"),
        (lambda: nn.Sequential(linear(), Sum(nn.PReLU(4))), [], "none of its weights can be pruned"),
        (lambda: Leaking(linear(), linear()), ["parts.1"], ""),
        (lambda: nn.Sequential(linear(), nn.ReLU(), linear()), [], ""),
    ],
)
def test_small_networks(make, names, reason):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    structure = trace(model, x, layers=True)
    found = [b.name for b in structure.layers]
    assert len(found) == len(names)
    assert all(f.startswith(n) for f, n in zip(found, names, strict=True)), found
    assert [reason in why for why in structure.kept_layers.values()] == [True] * bool(reason)
    for gone in found:
        masks = masks_of(model, structure, alive_but(structure, {gone}))
        assert (
            difference(outputs(under(model, masks), x), outputs(rs.shrink(model, masks, structure=structure), x)) < 1e-6
        )


def test_a_module_that_runs_twice_is_no_branch_of_its_own():
    shared = Sum(linear())
    structure = trace(nn.Sequential(shared, shared), torch.randn(2, 4), layers=True)
    assert structure.layers == ()


def test_a_constant_is_measured_and_of_any_size_of_batch():
    """What stays of conv, batch norm: shift - mean * scale / sqrt(variance + eps), by hand."""
    block = Sum(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).eval()
    norm = block.parts[1]
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.running_var.copy_(torch.tensor([4.0, 9.0, 16.0]) - norm.eps)
        norm.weight.copy_(torch.tensor([1.0, 2.0, 4.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.5, 0.5]))
        block.parts[0].bias.zero_()
    x = torch.randn(1, 3, 5, 5)
    small = rs.shrink(block, rs.prune(copy.deepcopy(block), 1.0, granularity="layer", example=x), x)
    torch.testing.assert_close(small.parts[1].constant, torch.tensor([0.0, 0.5 - 4 / 3, -2.5]))
    y = torch.randn(7, 3, 2, 9)
    torch.testing.assert_close(small(y) - y, small.parts[1].constant.view(1, 3, 1, 1).expand_as(y))


def test_fit_takes_layers_to_a_budget(tmp_path):
    torch.manual_seed(0)
    from resprout.tasks.digits import digits

    model = blocks(0.4, 0.1, 0.3, 0.2, inputs=1)
    dense = copy.deepcopy(model)
    result = rs.fit(model, digits(), "35k macs", granularity="layer", epochs=0.3, curve=False, out=tmp_path)
    arrival = result.frontier[-1]
    small = rs.load(arrival.file, dense)
    gone = [i for i in range(2, 6) if isinstance(small[i].conv2, Skip)]
    assert 0 < len(gone) < 4
    assert rs.Budget.parse("35k macs").met(arrival.cost)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(small.eval()(x), model.eval()(x), atol=1e-5)
