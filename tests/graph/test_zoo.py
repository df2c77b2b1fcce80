"""The zoo is what it is called: published sizes, outputs that depend on the input, and `torch.export` takes it."""

from itertools import islice

import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from zoo_cnn import LayerNorm2d
from zoo_concat import channel_shuffle
from zoo_vit import WindowAttention, window_partition, window_reverse

from resprout import find
from resprout.models.vit import vit_tiny_p4

try:
    import zoo_hf
except ImportError:  # transformers is not installed, and no dependency
    zoo_hf = None

HF = sorted(zoo_hf.HF) if zoo_hf else [pytest.param("", marks=pytest.mark.skip(reason="needs transformers"))]
NOT_EXPORTED: dict[str, str] = {}  # name -> the beginning of the reason

PUBLISHED = {  # as in torchvision without auxiliary heads; DeiT-S, its paper's 22 M; U-Net, two classes, counted by its plan
    "resnet50": 25_557_032,
    "resnext50": 25_028_904,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "convnext_t": 28_589_128,
    "densenet121": 7_978_856,
    "shufflenet_v2": 2_278_604,
    "googlenet": 6_624_904,
    "espcn": 64 * (3 * 25 + 1) + 32 * (64 * 9 + 1) + 72 * (32 * 9 + 1) + 16 + 3 * (8 * 9 + 1),
    "unet": 31_037_698,
    "swin_t": 28_288_354,
    "deit_s": 22_050_664,
    "vit_tiny_p4": 811_146,
}


def outputs(model: nn.Module, example) -> list[torch.Tensor]:
    """All tensors of the answer."""
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(example)
    found = [out] if isinstance(out, torch.Tensor) else list(out.values())
    return [v for v in found if isinstance(v, torch.Tensor)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    with torch.device("meta"):
        model = zoo.build(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_runs(name):
    (out,) = outputs(*zoo.full(name))
    assert out.shape == {"unet": (1, 2, 224, 224), "espcn": (1, 3, 51, 51), "vit_tiny_p4": (1, 10)}.get(name, (1, 1000))
    assert out.isfinite().all()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_output_depends_on_each_input_alone(name):
    model, x = zoo.MODELS[name]()
    assert not any(m.training for m in model.modules())
    (out,) = outputs(model, x)
    assert out.isfinite().all()
    assert (out[0] - out[1]).abs().max() > 0.05 * out.abs().max()
    torch.testing.assert_close(outputs(model, x[:1])[0], out[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HF)
def test_hugging_face_output_depends_on_the_input(name):
    model, example = zoo_hf.HF[name]()
    out = outputs(model, example)
    assert all(v.isfinite().all() for v in out)
    assert (out[0][0] - out[0][1]).abs().max() > 0.05 * out[0].abs().max()


@pytest.mark.skipif(zoo_hf is None, reason="needs transformers")
def test_hugging_face_models_have_what_makes_them_hard():
    models = {name: build()[0] for name, build in zoo_hf.HF.items()}
    for name in ("llama", "qwen2", "mistral"):  # four heads of 8, two key/value heads
        attention = models[name].model.layers[0].self_attn
        assert (attention.q_proj.out_features, attention.k_proj.out_features) == (32, 16)
    for name in ("gpt2", "opt", "qwen2", "t5", "whisper", "mamba"):
        assert models[name].get_output_embeddings().weight is models[name].get_input_embeddings().weight
    for name in ("llama", "mistral", "t5_gated"):
        assert models[name].get_output_embeddings().weight is not models[name].get_input_embeddings().weight
    assert models["qwen2"].model.layers[0].self_attn.k_proj.bias is not None
    assert models["clip"].text_projection.in_features != models["clip"].visual_projection.in_features


@pytest.mark.parametrize("name", [n for n in HF if n not in ("wavlm", "mamba")])  # which have no other attention
def test_eager_and_fused_attention_agree(name):
    eager, fused = (zoo_hf.HF[name](attention) for attention in ("eager", "sdpa"))
    assert eager[0].config._attn_implementation != fused[0].config._attn_implementation
    for a, b in zip(outputs(*eager), outputs(*fused), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*zoo.MODELS, *HF])
def test_export_takes_it(name):
    model, example = zoo.MODELS[name]() if name in zoo.MODELS else zoo_hf.HF[name]()
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    if name in NOT_EXPORTED:
        with pytest.raises(Exception, match=NOT_EXPORTED[name]):
            torch.export.export(model, args, kwargs, strict=False)
        return
    exported = torch.export.export(model, args, kwargs, strict=False).module()
    for a, b in zip(outputs(exported, example), outputs(model, example), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_channel_shuffle_and_channel_norm_are_those_of_pytorch():
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(channel_shuffle(x, 2), F.channel_shuffle(x, 2))
    norm = LayerNorm2d(6)
    nn.init.normal_(norm.weight)
    expected = (
        norm.weight.view(-1, 1, 1) * (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-5).sqrt()
    )
    torch.testing.assert_close(norm(x), expected)


def test_windows_come_apart_and_together():
    x = torch.arange(2 * 8 * 8 * 3.0).view(2, 8, 8, 3)
    windows = window_partition(x, 4)
    assert torch.equal(windows[1], x[0, :4, 4:])
    assert torch.equal(window_reverse(windows, 4, 8, 8), x)


def test_window_attention_sees_relative_positions():
    torch.manual_seed(0)
    side, dim, heads = 3, 8, 2
    module = WindowAttention(dim, side, heads)
    nn.init.normal_(module.relative_position_bias_table)
    bias = torch.empty(heads, side**2, side**2)
    for i in range(side**2):
        for j in range(side**2):
            down, right = i // side - j // side, i % side - j % side
            row = (down + side - 1) * (2 * side - 1) + right + side - 1
            bias[:, i, j] = module.relative_position_bias_table[row].detach()
    x = torch.randn(4, side**2, dim)
    q, k, v = module.qkv(x).view(4, side**2, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.proj(expected))


def test_vit_is_the_encoder_of_pytorch():
    torch.manual_seed(0)
    ours, _ = zoo.OURS["vit_tiny_p4"]()
    layer = nn.TransformerEncoderLayer(128, 8, 256, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    theirs.load_state_dict(ours.transformer.state_dict())
    tokens = torch.randn(2, 65, 128)
    torch.testing.assert_close(ours.transformer(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def correct(data_dir, batches: int) -> int:
    """How many of the first `batches` * 500 test images the trained ViT gets right."""
    model = vit_tiny_p4().eval()
    model.load_state_dict(load_file(data_dir / "cifar10-vit" / "vit-tiny-p4.safetensors"), strict=True)
    task = find.task("cifar10", data_dir / "cifar10", "vit_tiny_p4")
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in islice(task.batches("test"), batches))


@pytest.mark.data
def test_vit_loads_its_weights_and_knows_the_first_images(data_dir):
    assert correct(data_dir, 1) == pytest.approx(341, abs=1)  # as many as nn.TransformerEncoder with these weights


@pytest.mark.data
@pytest.mark.slow
def test_vit_reproduces_its_accuracy(data_dir):
    assert correct(data_dir, 20) == pytest.approx(7_373, abs=2)  # rounding may turn an image or two
