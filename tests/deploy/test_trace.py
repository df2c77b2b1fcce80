"""A traced program computes what the model computes, is as small as promised, and says what it cannot hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FLAT, IMAGE, Fn, bn, conv, image, relu, seq
from torch import nn
from torch.nn import functional

from resprout.core.errors import TraceError
from resprout.core.hold import hold
from resprout.core.masks import Masks
from resprout.deploy import interpret
from resprout.deploy.trace import Traced, lower
from resprout.models import build

SHAPES = {"resnet20": (3, 32, 32), "vgg16": (3, 32, 32), "digits_cnn": (1, 8, 8), "lenet_300_100": (784,)}


def stir(model: nn.Module) -> nn.Module:
    """Norms as after training, so that folding them wrongly is seen."""
    g = torch.Generator().manual_seed(3)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=g) / 2)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + 0.3)
            if m.affine:
                nn.init.normal_(m.weight, 1, 0.4, generator=g)
                nn.init.normal_(m.bias, 0, 0.4, generator=g)
    return model


def check(model: nn.Module, x: torch.Tensor, tolerance: float = 1e-5) -> Traced:
    """Trace, compare with the model in eval mode on another batch size, and return."""
    traced = lower(stir(model), x)
    modes = [m.training for m in model.modules()]
    with torch.no_grad():
        expected = model.eval()(x)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    result = interpret.run(traced.program, traced.tensors, x)
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
    assert set(traced.tensors) == set(traced.program.needs())
    return traced


def kinds(traced: Traced) -> str:
    return " ".join(op.name for op in traced.program.ops)


@pytest.mark.parametrize("name", SHAPES)
def test_our_own_networks_equal_the_model(name):
    torch.manual_seed(1)
    check(build(name), image(2, *SHAPES[name]), 2e-5)


def test_resnet20_is_as_short_as_it_can_be():
    traced = lower(build("resnet20"), image(1, 3, 32, 32))
    names = [op.name for op in traced.program.ops]
    assert {n: names.count(n) for n in names} == {
        "conv": 19,
        "add": 9,
        "shortcut": 2,
        "pool": 1,
        "flatten": 1,
        "linear": 1,
    }
    assert traced.folds["layer2.0.conv1.weight"] == "layer2.0.bn1"
    assert "layer2.0.bn1.bias" in traced.tensors
    assert all(op.slope == 0 for op in traced.program.ops if op.name == "add")
    assert traced.program.macs()["conv1.weight"] == 32 * 32


def test_a_folded_norm_by_hand():
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    nn.init.constant_(conv.weight, 2.0)
    nn.init.constant_(conv.bias, 1.0)
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    nn.init.constant_(norm.weight, 6.0)
    nn.init.constant_(norm.bias, 5.0)
    traced = lower(nn.Sequential(conv, norm), image(1, 1, 2, 2))  # (2 x + 1 - 3) * 6 / 2 + 5 = 6 x - 1
    assert {n: t.item() for n, t in traced.tensors.items()} == {"0.weight": 6.0, "1.bias": -1.0}
    assert traced.folds == {"0.weight": "1"}


def test_a_conv_without_a_norm_keeps_its_names():
    traced = check(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3, bias=False)), IMAGE)
    assert list(traced.tensors) == ["0.weight", "0.bias", "1.weight"]
    assert traced.program.ops[1].bias is None
    assert traced.folds == {}


VARIANTS = {  # name: (model, input, operations of the program)
    "padding same": (seq(conv(4, 6, 3, padding="same", dilation=2), relu()), IMAGE, "conv"),
    "padding valid": (seq(conv(4, 6, (3, 1), padding="valid")), IMAGE, "conv"),
    "stride, padding, dilation": (seq(conv(4, 6, (3, 5), (2, 1), (2, 1), (2, 1))), IMAGE, "conv"),
    "groups": (seq(conv(4, 8, 3, groups=2), bn(8), nn.ReLU6()), IMAGE, "conv"),
    "depthwise": (seq(conv(4, 4, 3, groups=4, bias=False), bn(4), nn.Hardtanh(0, 2)), IMAGE, "conv"),
    "leaky in place": (seq(conv(4, 4, 1), nn.LeakyReLU(0.2, inplace=True)), IMAGE, "conv"),
    "relu in place": (seq(conv(4, 4, 1), bn(4), nn.ReLU(inplace=True)), IMAGE, "conv"),
    "an activation first": (seq(relu(), conv(4, 4, 1)), IMAGE, "activation conv"),
    "two activations": (seq(conv(4, 4, 1), nn.LeakyReLU(), nn.ReLU6()), IMAGE, "conv activation"),
    "norm first": (seq(bn(4), relu(), conv(4, 4, 1)), IMAGE, "scale conv"),
    "two norms": (seq(conv(4, 4, 1), bn(4), bn(4), relu()), IMAGE, "conv scale"),
    "norm without weight": (seq(conv(4, 4, 1), bn(4, affine=False)), IMAGE, "conv"),
    "norm of a linear": (seq(nn.Linear(6, 5), nn.BatchNorm1d(5), relu()), FLAT, "linear"),
    "norm after the activation": (seq(conv(4, 4, 1), relu(), bn(4), relu()), IMAGE, "conv scale"),
    "clamp": (lambda: Fn(lambda m, x: m.c(x).clamp(0, 0.5), c=conv(4, 4, 1)), IMAGE, "conv"),
    "clamp below": (lambda: Fn(lambda m, x: m.c(x).clamp(min=0), c=conv(4, 4, 1)), IMAGE, "conv"),
    "clamp_min": (lambda: Fn(lambda m, x: m.c(x).clamp_min(0), c=conv(4, 4, 1)), IMAGE, "conv"),
    "clamp above": (lambda: Fn(lambda m, x: m.c(x).clamp(max=0.2), c=conv(4, 4, 1)), IMAGE, "conv"),
    "max pool": (seq(nn.MaxPool2d(3, 2, 1)), IMAGE, "pool"),
    "max pool, ceil mode that changes nothing": (seq(nn.MaxPool2d(2, ceil_mode=True)), IMAGE, "pool"),
    "max pool with indices": (
        lambda: Fn(lambda m, x: functional.max_pool2d(x, 2, return_indices=True)[0]),
        IMAGE,
        "pool",
    ),
    "avg pool": (seq(nn.AvgPool2d((2, 4))), IMAGE, "pool"),
    "avg pool, padded": (seq(nn.AvgPool2d(3, 2, 1)), IMAGE, "pool"),
    "avg pool, padding not counted": (seq(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), IMAGE, "pool"),
    "adaptive to 1": (seq(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), IMAGE, "pool flatten linear"),
    "adaptive to a divisor": (seq(nn.AdaptiveAvgPool2d((4, 2))), IMAGE, "pool"),
    "adaptive to itself": (seq(conv(4, 2, 1), nn.AdaptiveAvgPool2d((8, 8))), IMAGE, "conv"),
    "adaptive max": (seq(nn.AdaptiveMaxPool2d(2)), IMAGE, "pool"),
    "mean": (lambda: Fn(lambda m, x: x.mean((2, 3))), IMAGE, "pool flatten"),
    "mean from behind": (lambda: Fn(lambda m, x: x.mean((-1, -2), keepdim=True)), IMAGE, "pool"),
    "add in place": (lambda: Fn(lambda m, x: relu()(m.c(x).add_(x)), c=conv(4, 4, 1)), IMAGE, "conv add"),
    "add to itself": (lambda: Fn(lambda m, x: x + x), IMAGE, "add"),
    "cat": (lambda: Fn(lambda m, x: torch.cat([x, m.c(x), x], -3), c=conv(4, 2, 1)), IMAGE, "conv concat"),
    "cat of flat": (lambda: Fn(lambda m, x: torch.cat([x, relu()(x)], -1)), FLAT, "activation concat"),
    "view": (lambda: Fn(lambda m, x: x.view(x.shape[0], -1)), IMAGE, "flatten"),
    "reshape": (lambda: Fn(lambda m, x: x.reshape(-1, 256)), IMAGE, "flatten"),
    "flatten twice": (seq(nn.Flatten(), nn.Flatten(), nn.Linear(256, 2)), IMAGE, "flatten linear"),
    "flatten the flat": (seq(nn.Flatten(), nn.Linear(6, 2)), FLAT, "linear"),
    "nothing to do": (seq(nn.Identity(), nn.Dropout()), FLAT, ""),
    "dropout": (seq(nn.Linear(6, 4), nn.Dropout(0.5), nn.Identity(), nn.Linear(4, 2)), FLAT, "linear linear"),
    "dropout2d": (seq(conv(4, 4, 1), nn.Dropout2d(), relu()), IMAGE, "conv"),
    "softmax": (seq(nn.Linear(6, 4), nn.Softmax(-1)), FLAT, "linear softmax"),
    "mm": (lambda: Fn(lambda m, x: x.mm(m.l.weight.t()), l=nn.Linear(6, 4)), FLAT, "linear"),
    "matmul": (lambda: Fn(lambda m, x: x @ m.l.weight.T + m.l.bias, l=nn.Linear(6, 4)), FLAT, "linear scale"),
    "addmm": (lambda: Fn(lambda m, x: torch.addmm(m.l.bias, x, m.l.weight.t()), l=nn.Linear(6, 4)), FLAT, "linear"),
    "option A": (lambda: Fn(lambda m, x: functional.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 1, 2))), IMAGE, "shortcut"),
    "scale and shift": (
        lambda: Fn(lambda m, x: relu()(x * m.a + 2.0), a=nn.Parameter(torch.randn(1, 4, 1, 1))),
        IMAGE,
        "scale scale",
    ),
    "normalised input": (
        lambda: Fn(lambda m, x: m.c((x - torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1)) / 0.5), c=conv(4, 2, 1)),
        IMAGE,
        "scale scale conv",
    ),
    "unused work": (lambda: Fn(lambda m, x: (x.sigmoid().sum(), m.c(x))[1], c=conv(4, 2, 1)), IMAGE, "conv"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_equal_the_model(name):
    make, x, expected = VARIANTS[name]
    torch.manual_seed(2)
    traced = check(make(), x)
    assert kinds(traced) == expected


def test_weights_written_as_a_product_keep_their_name():
    traced = check(Fn(lambda m, x: x @ m.l.weight.t(), l=nn.Linear(6, 4)), FLAT)
    assert list(traced.tensors) == ["l.weight"]
    turned = check(Fn(lambda m, x: x @ m.w, w=nn.Parameter(torch.randn(6, 4))), FLAT)
    assert "w" not in turned.tensors  # it is (out, in), which `w` of the model is not
    assert turned.sources == ("w",)


def test_a_scale_per_channel_has_the_parameters_name_if_it_has_its_shape():
    plain = check(Fn(lambda m, x: x * m.a + m.b, a=nn.Parameter(torch.randn(6)), b=nn.Parameter(torch.randn(6))), FLAT)
    assert [(op.weight, op.bias) for op in plain.program.ops] == [("a", "mul:bias"), ("add:weight", "b")]
    assert plain.sources == ()
    plane = check(Fn(lambda m, x: x * m.a, a=nn.Parameter(torch.randn(4, 1, 1))), IMAGE)
    assert plane.sources == ("a",)


def test_a_norm_by_hand_is_a_scale():
    def forward(m, x):
        return functional.batch_norm(x, m.mean, m.var, m.weight, None)

    parts = {"mean": torch.randn(6), "var": torch.rand(6)}
    model = Fn(forward, weight=nn.Parameter(torch.randn(6)))
    for name, tensor in parts.items():
        model.register_buffer(name, tensor)
    traced = check(model, FLAT)
    assert kinds(traced) == "scale"
    assert set(traced.sources) == {"mean", "var", "weight"}


def test_a_sum_in_place_after_an_activation_in_place():
    model = Fn(lambda m, x: m.c(x).relu_().add_(m.d(x)).clamp_(0, 1), c=conv(4, 4, 1), d=conv(4, 4, 1))
    assert kinds(check(model, IMAGE)) == "conv conv add"


def test_a_result_in_place_is_seen_by_all_who_read_it():
    def forward(m, x):
        y = m.c(x)
        flat = y.flatten(1)
        y.relu_()
        return torch.cat([flat, y.flatten(1)], 1)

    traced = check(Fn(forward, c=conv(4, 4, 1)), IMAGE)
    assert kinds(traced) == "conv flatten flatten concat"


def test_a_value_that_others_read_is_not_fused():
    model = Fn(lambda m, x: m.n(y := m.c(x)) + functional.relu(y), c=conv(4, 4, 1), n=bn(4))
    traced = check(model, IMAGE)
    assert sorted(kinds(traced).split()) == ["activation", "add", "conv", "scale"]
    assert traced.folds == {}
    assert list(traced.tensors) == ["c.weight", "c.bias", "n.weight", "n.bias"]


# -- shared weights --------------------------------------------------------------------------------------------


def test_a_block_used_twice_is_folded_once():
    block = nn.Sequential(conv(4, 4, 3, padding=1), bn(4), relu())
    traced = check(nn.Sequential(block, block), IMAGE)
    assert kinds(traced) == "conv conv"
    assert list(traced.tensors) == ["0.0.weight", "0.1.bias"]


def test_a_conv_with_two_norms_is_not_folded():
    c = conv(4, 4, 1)
    traced = check(nn.Sequential(c, bn(4), relu(), c, bn(4)), IMAGE)
    assert kinds(traced) == "conv scale conv scale"
    assert torch.equal(traced.tensors["0.weight"], c.weight)
    assert traced.folds == {}


def test_a_norm_with_two_convs_is_not_folded():
    n = bn(4)
    traced = check(nn.Sequential(conv(4, 4, 1), n, relu(), conv(4, 4, 1), n), IMAGE)
    assert kinds(traced) == "conv scale conv scale"


def test_a_conv_with_and_without_its_norm_is_not_folded():
    c = conv(4, 4, 1)
    assert check(nn.Sequential(c, bn(4), relu(), c), IMAGE).folds == {}


def test_tied_parameters_are_one_tensor():
    model = nn.Sequential(nn.Linear(6, 6), relu(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    traced = check(model, FLAT)
    assert [op.weight for op in traced.program.ops] == ["0.weight", "0.weight"]
    assert list(traced.tensors) == ["0.weight", "0.bias", "2.bias"]


# -- masks and parametrisations --------------------------------------------------------------------------------


def test_a_held_model_stays_held_and_is_traced_with_its_zeros(tiny):
    masks = Masks({"0.weight": torch.rand(4, 2, 3, 3) > 0.5})
    guard = hold(tiny, masks)
    x = image(2, 2, 4, 4)
    traced = check(tiny, x)
    assert not traced.tensors["0.weight"][~masks["0.weight"]].any()
    with torch.no_grad():
        tiny[0].weight.fill_(1.0)
        tiny(x)
    assert torch.equal(tiny[0].weight != 0, guard.masks["0.weight"])


def test_a_weight_behind_a_mask_parametrisation_keeps_its_name():
    class Masked(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, w):
            return w * self.mask

    model = nn.Sequential(nn.Linear(6, 4))
    mask = torch.rand(4, 6) > 0.5
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", Masked(mask))
    traced = check(model, FLAT)
    assert torch.equal(traced.tensors["0.parametrizations.weight.original"] != 0, mask)


def test_a_normalised_weight_gets_a_name_of_its_own():
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    traced = check(model, FLAT)
    assert traced.program.ops[0].weight not in model.state_dict()
    assert set(traced.sources) == {f"0.parametrizations.weight.original{i}" for i in (0, 1)}


# -- the model afterwards --------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was(tiny):
    tiny.train()
    tiny[1].eval()
    tiny[5].eval()
    calls = []
    tiny[0].register_forward_hook(lambda *a: None)
    tiny.register_forward_pre_hook(lambda *a: calls.append(1))
    tiny[0].weight.requires_grad_(False)
    tiny(image(2, 2, 4, 4)).sum().backward()
    state = {n: t.clone() for n, t in tiny.state_dict().items()}
    before = [dict(vars(m)) for m in tiny.modules()]
    hooks = [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in tiny.modules()]
    parameters = [(id(p), id(p.grad), p.requires_grad, p._version) for p in tiny.parameters()]
    random = torch.get_rng_state()
    lower(tiny, image(2, 2, 4, 4))
    assert torch.equal(random, torch.get_rng_state())
    assert parameters == [(id(p), id(p.grad), p.requires_grad, p._version) for p in tiny.parameters()]
    assert hooks == [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in tiny.modules()]
    for module, then in zip(tiny.modules(), before, strict=True):
        now = vars(module)
        assert list(now) == list(then)
        assert now["training"] == then["training"]
        assert all(now[k] is then[k] or now[k] == then[k] for k in then)
    assert all(torch.equal(t, state[n]) for n, t in tiny.state_dict().items())


def test_the_model_is_left_as_it_was_when_tracing_fails(tiny):
    tiny.train()
    tiny.append(nn.Sigmoid())
    with pytest.raises(TraceError):
        lower(tiny, image(2, 2, 4, 4))
    with pytest.raises(TraceError):
        lower(tiny, image(2, 9, 4, 4))
    assert all(m.training for m in tiny.modules())


def test_the_tensors_are_copies(tiny):
    traced = lower(tiny, image(2, 2, 4, 4))
    for name, tensor in traced.tensors.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        if name in (state := tiny.state_dict()):
            assert tensor.data_ptr() != state[name].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types_become_float32(dtype):
    model = stir(nn.Sequential(conv(4, 4, 3), bn(4), relu())).to(dtype)
    traced = lower(model, IMAGE)
    assert all(t.dtype == torch.float32 for t in traced.tensors.values())
    expected = model.float().eval()(IMAGE)
    torch.testing.assert_close(interpret.run(traced.program, traced.tensors, IMAGE), expected, rtol=1e-5, atol=1e-5)


def test_channels_last_models_and_a_batch_of_one():
    model = nn.Sequential(conv(4, 4, 3), bn(4), relu()).to(memory_format=torch.channels_last)
    check(model, IMAGE[:1].contiguous(memory_format=torch.channels_last))


def test_an_example_may_be_a_batch_with_labels():
    assert lower(nn.Linear(6, 2), (FLAT, torch.zeros(3))).program.input == (6,)


def test_wrapped_models_are_unwrapped():
    assert list(lower(nn.DataParallel(nn.Sequential(nn.Linear(6, 2))), FLAT).tensors) == ["0.weight", "0.bias"]


# -- numbers that break ----------------------------------------------------------------------------------------


def test_dead_channels_and_tiny_variances_are_fine():
    model = stir(nn.Sequential(conv(4, 4, 1), bn(4)))
    model[1].weight.data[0] = 0
    model[1].running_var[1] = 0
    assert all(t.isfinite().all() for t in lower(model, IMAGE).tensors.values())


@pytest.mark.parametrize(("eps", "value"), [(0.0, 0.0), (1e-5, float("nan")), (1e-5, -1.0)])
def test_a_norm_that_is_not_finite_is_named(eps, value):
    model = nn.Sequential(conv(4, 4, 1), bn(4, eps=eps))
    model[1].running_var[2] = value
    with pytest.raises(TraceError, match=r"norm '1' .* not finite"):
        lower(model, IMAGE)


def test_a_weight_that_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(6, 2))
    model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(TraceError, match=r"'0.weight' holds NaN"):
        lower(model, FLAT)


# -- random networks -------------------------------------------------------------------------------------------


@st.composite
def networks(draw) -> nn.Module:
    """Convolutions with norms, activations, pools and residual sums in any order."""
    torch.manual_seed(draw(st.integers(0, 9)))
    steps, c, size = [], 3, 8
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["conv", "norm", "relu", "leaky", "pool", "save", "add", "cat"]))
        if kind == "conv":
            n, k = draw(st.integers(1, 5)), draw(st.sampled_from([1, 3]))
            steps.append((kind, conv(c, n, k, padding=k // 2, bias=draw(st.booleans()))))
            c = n
        elif kind == "pool" and size > 2:
            steps.append((kind, nn.MaxPool2d(2)))
            size //= 2
        elif kind in ("norm", "relu", "leaky"):
            steps.append((kind, {"norm": bn(c), "relu": relu(), "leaky": nn.LeakyReLU(0.3)}[kind]))
        elif kind != "pool":
            steps.append((kind, nn.Identity()))

    def forward(m, x):
        kept = x
        for (kind, _), module in zip(steps, m.steps, strict=True):
            y = module(x)
            if kind == "save":
                kept = y
            elif kind == "add" and kept.shape == y.shape:
                y = y + kept
            elif kind == "cat" and kept.shape[2:] == y.shape[2:] and module is m.steps[-1]:
                y = torch.cat([y, kept], 1)
            x = y
        return x

    return Fn(forward, steps=nn.ModuleList(module for _, module in steps))


@settings(max_examples=25, deadline=None)
@given(networks())
def test_random_networks_equal_the_model(model):
    check(model, image(2, 3, 8, 8), 1e-4)
