"""Groups of coupled channels, on networks nobody wrote for us: what is masked and what has left compute the same."""

import copy

import pytest
import torch
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import resprout as rs
from resprout.core.errors import LayerDied, ResproutError, TraceError
from resprout.graph.alike import difference, masked, outputs
from resprout.graph.remove import remove
from resprout.graph.shape import shape_of

try:
    import zoo_hf
except ImportError:  # transformers is not installed, and no dependency
    zoo_hf = None

HF = sorted(zoo_hf.HF) if zoo_hf else []
EVERY = [*zoo.MODELS, *HF]
FEWEST = {  # groups at least, heads among them: what each network is known to have (blocks, widths, attentions)
    "resnet50": (15, 0), "resnext50": (8, 0), "mobilenet_v2": (18, 0), "mobilenet_v3": (30, 0), "densenet121": (20, 0),
    "shufflenet_v2": (11, 0), "efficientnet_b0": (27, 0), "convnext_t": (10, 0), "googlenet": (27, 0), "unet": (11, 0),
    "vit_tiny_p4": (13, 6), "swin_t": (6, 0), "bert": (6, 2), "gpt2": (5, 2), "opt": (5, 2), "llama": (5, 2), "qwen2": (5, 2),
    "mistral": (5, 2), "t5": (6, 2), "vit": (5, 2), "deit": (5, 2), "clip": (8, 4), "whisper": (12, 6), "wavlm": (4, 0),
    "mamba": (5, 0), "vgg16": (13, 0), "resnet20": (10, 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def traced():
    """Each model, its example and its structure, made once."""
    made = {}

    def get(name: str):
        if name not in made:
            model, example = (zoo_hf.HF if name in HF else zoo.MODELS)[name]()  # pyright: ignore
            made[name] = model, example, rs.trace(model, example)
        return made[name]

    return get


def some(structure, seed: int, share: float) -> dict[str, torch.Tensor]:
    """A random part of the units of random groups; at least one of each lives."""
    g = torch.Generator().manual_seed(seed)
    alive = {}
    for group in structure.groups:
        touched = torch.rand((), generator=g) < 0.7
        alive[group.name] = (torch.rand(len(group), generator=g) < share) | (not touched)
        alive[group.name][int(torch.randint(len(group), (), generator=g))] = True
    return alive


@pytest.mark.parametrize("name", EVERY)
def test_what_is_masked_and_what_has_left_compute_the_same(name, traced):
    model, example, structure = traced(name)

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 10**6), st.sampled_from([0.15, 0.5, 0.85]))
    def check(seed, share):
        alive = some(structure, seed, share)
        small = remove(model, structure, alive)
        gap = difference(outputs(masked(model, structure.groups, alive), example), outputs(small, example))
        assert gap < 1e-4
        whole = rs.expand(small, like=model)
        for n, tensor in model.state_dict().items():
            assert torch.equal(whole.state_dict()[n], tensor), n

    check()


@pytest.mark.parametrize("name", EVERY)
def test_every_weight_is_in_a_group_or_on_the_list_with_a_reason(name, traced):
    model, _, structure = traced(name)
    groups, kept = structure
    made = {s.parameter for g in groups for s in g.slots}
    modules = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    for parameter in (n for n, _ in model.named_parameters() if n in modules):  # of tied ones, the first
        assert parameter in made or parameter in kept, parameter
    assert all(kept.values())
    heads = sum(g.kind == "head" for g in groups)
    fewest = FEWEST.get(name, (1, 0))
    assert (len(groups), heads) >= fewest
    assert heads >= fewest[1]


@pytest.mark.parametrize("name", ["resnet20", "llama", "shufflenet_v2", "convnext_t"] if HF else ["resnet20"])
def test_tracing_leaves_no_trace(name):
    model, example = (zoo_hf.HF if name in HF else zoo.MODELS)[name]()  # pyright: ignore
    model.train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    rs.trace(model, example)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# -- by hand --------------------------------------------------------------------------------------------------------


def places(group) -> set[tuple[str, int, int]]:
    return {(s.parameter, s.dim, s.repeat) for s in group.slots}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.out(x + self.inner(x).relu())


def test_a_residual_sum_couples_both_sides():
    groups, kept = rs.trace(Residual(), torch.randn(2, 3))
    assert len(groups) == 1
    assert places(groups[0]) == {
        ("stem.weight", 0, 1), ("stem.bias", 0, 1), ("inner.weight", 0, 1), ("inner.weight", 1, 1), ("inner.bias", 0, 1),
        ("out.weight", 1, 1),
    }  # fmt: skip
    assert kept == {"out.weight": "the network returns it"}


def test_flattening_repeats_and_concatenation_offsets():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 3, 3), nn.Linear(5 * 4, 2)

        def forward(self, x):
            return self.out(torch.cat([self.a(x), self.b(x)], 1).flatten(1))

    groups, _ = rs.trace(Net(), torch.randn(2, 1, 4, 4))
    slots = {g.name: next(s for s in g.slots if s.parameter == "out.weight") for g in groups}
    assert (slots["a.weight"].offset, slots["a.weight"].repeat) == (0, 4)
    assert (slots["b.weight"].offset, slots["b.weight"].repeat) == (8, 4)
    assert slots["b.weight"].index.tolist()[1] == [12, 13, 14, 15]


def test_query_groups_share_a_head_of_keys():
    if not HF:
        pytest.skip("needs transformers")
    model, example = zoo_hf.HF["llama"]()  # pyright: ignore  # 4 query heads of width 8, 2 of keys
    heads = [g for g in rs.trace(model, example).groups if g.kind == "head"]
    attention = "model.layers.0.self_attn"
    assert places(heads[0]) == {
        (f"{attention}.q_proj.weight", 0, 16), (f"{attention}.k_proj.weight", 0, 8), (f"{attention}.v_proj.weight", 0, 8),
        (f"{attention}.o_proj.weight", 1, 16),
    }  # fmt: skip


def test_gate_and_up_of_a_gated_mlp_and_tied_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.gate, self.up = nn.Embedding(7, 4), nn.Linear(4, 6), nn.Linear(4, 6)
            self.down, self.head = nn.Linear(6, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            x = self.embed(ids)
            return self.head(x + self.down(torch.sigmoid(self.gate(x)) * self.up(x)))

    model, ids = Net(), torch.tensor([[1, 2, 3]])
    structure = rs.trace(model, ids)
    by_name = {g.name: places(g) for g in structure.groups}
    assert ("up.weight", 0, 1) in by_name["gate.weight"]
    assert ("down.weight", 1, 1) in by_name["gate.weight"]
    width = next(p for p in by_name.values() if ("embed.weight", 1, 1) in p)
    assert {("gate.weight", 1, 1), ("down.weight", 0, 1)} <= width
    small = remove(model, structure, some(structure, 0, 0.5))
    assert small.head.weight is small.embed.weight  # still tied


def test_a_group_of_a_grouped_convolution_leaves_whole():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    groups, _ = rs.trace(net, torch.randn(1, 3, 5, 5))
    assert [len(g) for g in groups] == [4]
    alive = {groups[0].name: torch.tensor([True, False, True, False])}
    small = remove(net, rs.trace(net, torch.randn(1, 3, 5, 5)), alive)
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (2, 4, 4)


def test_an_unknown_operation_keeps_its_operands_and_says_so():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.rnn, self.b = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.b(self.rnn(self.a(x))[0])

    structure = rs.trace(Net(), torch.randn(2, 3, 4))
    assert structure.groups == ()
    assert "a.weight" in structure.kept_dense
    small = rs.shrink(Net(), rs.Masks.dense(Net()), structure=structure)
    assert shape_of(small).kept == {}


def test_code_that_names_its_size_is_found_out_on_trial():
    class Net(nn.Module):
        def __init__(self, known: bool):
            super().__init__()
            self.a, self.b, self.width, self.known = nn.Linear(4, 6), nn.Linear(6, 2), 6, known

        def forward(self, x):
            return self.b(self.a(x).view(-1, 2, self.width // 2 if self.known else 3).relu().flatten(1))

    found = rs.trace(Net(True), torch.randn(5, 4))
    assert [len(g) for g in found.groups] == [3]  # one of each half
    assert found.attributes == {"a.weight": {"width": 2}}
    found = rs.trace(Net(False), torch.randn(5, 4))
    assert found.groups == ()
    assert "without a unit the model fails" in found.kept_dense["a.weight"]


def test_dynamic_control_flow_is_followed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            y = self.a(x)
            for _ in range(int(x.abs().sum() > 0) + 1):  # looks at numbers: torch.export gives up
                y = y.relu()
            return self.b(y)

    groups, _ = rs.trace(Net(), torch.randn(2, 4))
    assert [len(g) for g in groups] == [6]


@pytest.mark.parametrize("name", ["resnet20", "convnext_t", "mobilenet_v2", *(["gpt2", "llama"] if HF else [])])
def test_what_has_been_shrunk_shrinks_again_and_expands_at_once(name, traced, tmp_path):
    model, example, structure = traced(name)
    once = remove(model, structure, some(structure, 1, 0.6))
    again = rs.trace(once, example)
    alive = some(again, 2, 0.6)
    twice = remove(once, again, alive)
    gap = difference(outputs(masked(once, again.groups, alive), example), outputs(twice, example))
    assert gap < 1e-4
    whole = rs.expand(twice, like=model).state_dict()
    assert all(torch.equal(tensor, whole[n]) for n, tensor in model.state_dict().items())
    rs.save(tmp_path / "twice.safetensors", twice, values="fp32")
    loaded = rs.load(tmp_path / "twice.safetensors", copy.deepcopy(model))
    assert difference(outputs(twice, example), outputs(loaded, example)) < 1e-6


def test_masks_that_a_weight_without_one_can_tell_from_removal_are_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Parameter(torch.ones(4, 2))

        def forward(self, x):
            return self.a(x).sigmoid() @ self.b

    masks = rs.Masks({"a.weight": torch.tensor([[True] * 3, [False] * 3, [True] * 3, [True] * 3])})
    with pytest.raises(TraceError, match="would compute something else"):
        rs.shrink(Net(), masks, torch.randn(2, 3))


# -- bad input ------------------------------------------------------------------------------------------------------


def test_an_example_that_does_not_fit():
    with pytest.raises(TraceError, match="cannot be traced with float32"):
        rs.trace(Residual(), torch.randn(2, 5))


def test_a_group_that_would_die():
    net, x = Residual(), torch.randn(2, 3)
    with pytest.raises(LayerDied, match="nothing is left of"):
        rs.shrink(net, ~rs.Masks.dense(net), x)


def test_expand_wants_what_shrink_made():
    with pytest.raises(ResproutError, match=r"rs\.shrink"):
        rs.expand(Residual(), like=Residual())
    small = rs.shrink(Residual(), rs.Masks.dense(Residual()), torch.randn(2, 3))
    with pytest.raises(ResproutError, match="another network"):
        rs.expand(small, like=nn.Linear(3, 4))
