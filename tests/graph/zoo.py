"""The networks on which the tracer is proven: small quick ones to test with, and full-size ones by name.

`CNNS` and `VITS` map a name to a function that returns a small model in eval mode and two random images; `OURS` has the networks
of `resprout.models` in their own size; `MODELS` is all of them. `full(name)` returns the published size and one image. Those of
Hugging Face are in `zoo_hf.py`.
"""

from collections.abc import Callable

import torch
import zoo_cnn
import zoo_concat
import zoo_vit
from torch import Tensor, nn

from resprout import models

Small = Callable[[], tuple[nn.Module, Tensor]]

# name -> (function, arguments that make it small, its image size then, and at full size)
_CNN = {
    "resnet50": (zoo_cnn.resnet50, {"width": 0.125, "depth": 0.34, "classes": 10}, 32, 224),
    "resnext50": (zoo_cnn.resnext50, {"width": 0.25, "depth": 0.34, "classes": 10}, 32, 224),
    "mobilenet_v2": (zoo_cnn.mobilenet_v2, {"width": 0.25, "depth": 0.5, "classes": 10}, 64, 224),
    "mobilenet_v3": (zoo_cnn.mobilenet_v3, {"width": 0.25, "classes": 10}, 64, 224),
    "efficientnet_b0": (zoo_cnn.efficientnet_b0, {"width": 0.25, "depth": 0.5, "classes": 10}, 64, 224),
    "convnext_t": (zoo_cnn.convnext_t, {"width": 0.125, "depth": 0.34, "classes": 10, "layer_scale": 0.5}, 64, 224),
    "densenet121": (zoo_concat.densenet121, {"width": 0.25, "depth": 0.125, "classes": 10}, 64, 224),
    "shufflenet_v2": (zoo_concat.shufflenet_v2, {"width": 0.25, "depth": 0.25, "classes": 10}, 64, 224),
    "googlenet": (zoo_concat.googlenet, {"width": 0.125, "depth": 0.5, "classes": 10}, 64, 224),
    "espcn": (zoo_cnn.espcn, {"width": 0.25}, 9, 17),
    "unet": (zoo_concat.unet, {"width": 0.125, "depth": 0.5}, 34, 224),
}
_VIT = {
    "swin_t": (
        zoo_vit.swin_t,
        {"width": 0.25, "depth": 0.3, "classes": 10, "image": 64, "window_size": 4, "stages": 3},
        64,
        224,
    ),
    "deit_s": (zoo_vit.deit_s, {"width": 0.125, "depth": 0.17, "classes": 10, "image": 32, "patch": 8}, 32, 224),
}


def liven(model: nn.Module, *example: Tensor, seed: int = 0) -> nn.Module:
    """Return the model in eval mode with weights, scales, shifts and statistics (those of `example`) that do something.

    Without it a deep network with random weights says nearly nothing about its input, and a comparison of outputs is empty.
    """
    g = torch.Generator().manual_seed(seed)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=g)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=g))
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=g))
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = None  # the statistics become those of the one batch that follows
    with torch.no_grad():
        model(*example)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
            assert module.running_var is not None
            module.running_var += 0.1 * module.running_var.mean()  # a channel that hardly varies is not blown up
    return model.eval()


def image(size: int, batch: int = 2, seed: int = 1) -> Tensor:
    """A batch of random images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _small(name: str) -> Small:
    def build() -> tuple[nn.Module, Tensor]:
        function, arguments, size, _ = (_CNN | _VIT)[name]
        torch.manual_seed(0)
        return liven(function(**arguments), image(size, batch=8)), image(size)

    return build


def _ours(name: str, *shape: int) -> Small:
    def build() -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
        return liven(models.build(name), x), x[:2]

    return build


CNNS: dict[str, Small] = {name: _small(name) for name in _CNN}
VITS: dict[str, Small] = {name: _small(name) for name in _VIT}
OURS: dict[str, Small] = {
    "lenet_300_100": _ours("lenet_300_100", 1, 28, 28),
    "digits_cnn": _ours("digits_cnn", 1, 8, 8),
    "resnet20": _ours("resnet20", 3, 32, 32),
    "vgg16": _ours("vgg16", 3, 32, 32),
    "vit_tiny_p4": _ours("vit_tiny_p4", 3, 32, 32),
}
MODELS: dict[str, Small] = CNNS | VITS | OURS


def build(name: str) -> nn.Module:
    """Return the published size with random weights, nothing run."""
    return models.build(name) if name in OURS else (_CNN | _VIT)[name][0]()


def full(name: str) -> tuple[nn.Module, Tensor]:
    """Return the published size in eval mode, with random weights, and one random image."""
    if name in OURS:
        model, x = OURS[name]()
        return model, x[:1]
    torch.manual_seed(0)
    return build(name).eval(), image((_CNN | _VIT)[name][-1], batch=1)
