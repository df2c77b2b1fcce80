"""Convolutional networks in the words of their papers, as an ordinary author writes them; nothing is simplified for the tracer.

`width` scales the channels and `depth` the blocks of a stage, so that tests have small ones; the defaults are published sizes.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scaled(channels: float, width: float = 1.0) -> int:
    """Channels times width, to a multiple of 8 that loses at most a tenth (the rule of the MobileNets)."""
    if isinstance(channels, int) and width == 1:
        return channels
    wanted = channels * width
    found = max(8, int(wanted + 4) // 8 * 8)
    return found + 8 if found < 0.9 * wanted else found


def repeats(blocks: int, depth: float) -> int:
    return max(1, round(blocks * depth))


# --- ResNet-50 v1.5: He et al., CVPR 2016, arXiv:1512.03385, with the stride in the 3x3 convolution;
# --- ResNeXt-50 32x4d: Xie et al., CVPR 2017, arXiv:1611.05431, whose 3x3 convolutions are grouped and twice as wide


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1, groups: int = 1):
        super().__init__()
        inner = planes if groups == 1 else 2 * planes
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != planes * self.expansion:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes * self.expansion, 1, stride, bias=False),
                nn.BatchNorm2d(planes * self.expansion),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet50(nn.Module):
    def __init__(self, width: float, depth: float, classes: int, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.inplanes = scaled(64, width)
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(scaled(64, width), repeats(3, depth), 1)
        self.layer2 = self._make_layer(scaled(128, width), repeats(4, depth), 2)
        self.layer3 = self._make_layer(scaled(256, width), repeats(6, depth), 2)
        self.layer4 = self._make_layer(scaled(512, width), repeats(3, depth), 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, classes)

    def _make_layer(self, planes: int, blocks: int, stride: int) -> nn.Sequential:
        layers = [Bottleneck(self.inplanes, planes, stride, self.groups)]
        self.inplanes = planes * Bottleneck.expansion
        layers += [Bottleneck(self.inplanes, planes, groups=self.groups) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


def resnet50(width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    return ResNet50(width, depth, classes)


def resnext50(width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    return ResNet50(width, depth, classes, groups=scaled(32, width))


# --- MobileNetV2: Sandler et al., CVPR 2018, arXiv:1801.04381


class ConvNormActivation(nn.Sequential):
    def __init__(self, inputs, outputs, kernel=3, stride=1, groups=1, activation=nn.ReLU6, eps=1e-5):
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=eps),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand_ratio: int):
        super().__init__()
        hidden = round(inputs * expand_ratio)
        self.use_res_connect = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1))
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    settings = (  # expansion, channels, blocks, stride
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self, width: float, depth: float, classes: int):
        super().__init__()
        inputs = scaled(32, width)
        features: list[nn.Module] = [ConvNormActivation(3, inputs, stride=2)]
        for ratio, channels, blocks, stride in self.settings:
            for i in range(repeats(blocks, depth)):
                features.append(InvertedResidual(inputs, scaled(channels, width), stride if i == 0 else 1, ratio))
                inputs = scaled(channels, width)
        features.append(ConvNormActivation(inputs, scaled(1280, width), 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(scaled(1280, width), classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        return self.classifier(x)


def mobilenet_v2(width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    return MobileNetV2(width, depth, classes)


# --- MobileNetV3-Large: Howard et al., ICCV 2019, arXiv:1905.02244


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeeze: int, activation=nn.ReLU, gate=nn.Hardsigmoid):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        return self.scale_activation(self.fc2(scale)) * x


class MobileBlock(nn.Module):
    def __init__(self, inputs, kernel, hidden, outputs, use_se, activation, stride):
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        norm = {"activation": activation, "eps": 1e-3}
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvNormActivation(inputs, hidden, 1, **norm))
        layers.append(ConvNormActivation(hidden, hidden, kernel, stride, groups=hidden, **norm))
        if use_se:
            layers.append(SqueezeExcitation(hidden, scaled(hidden / 4)))
        layers.append(ConvNormActivation(hidden, outputs, 1, activation=None, eps=1e-3))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_res_connect:
            result += x
        return result


class MobileNetV3(nn.Module):
    settings = (  # kernel, expanded, channels, squeeze-and-excitation, hardswish, stride
        (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
    )  # fmt: skip

    def __init__(self, width: float, depth: float, classes: int):
        super().__init__()
        inputs = scaled(16, width)
        features: list[nn.Module] = [ConvNormActivation(3, inputs, stride=2, activation=nn.Hardswish, eps=1e-3)]
        for kernel, hidden, channels, use_se, hardswish, stride in self.settings[: repeats(15, depth)]:
            outputs, act = scaled(channels, width), nn.Hardswish if hardswish else nn.ReLU
            features.append(MobileBlock(inputs, kernel, scaled(hidden, width), outputs, use_se, act, stride))
            inputs = outputs
        features.append(ConvNormActivation(inputs, 6 * inputs, 1, activation=nn.Hardswish, eps=1e-3))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = scaled(1280, width)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, last), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(last, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = torch.flatten(x, 1)
        return self.classifier(x)


def mobilenet_v3(width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    return MobileNetV3(width, depth, classes)


# --- EfficientNet-B0: Tan, Le, ICML 2019, arXiv:1905.11946


def drop_path(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop whole samples of a residual branch: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016."""
    if p == 0.0 or not training:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - p)
    return x * keep / (1 - p)


def drop_rates(last: float, blocks: int) -> list[float]:
    """From 0 to `last`, a rate per block."""
    return [last * i / (blocks - 1) for i in range(blocks)]


class MBConv(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expand_ratio, drop_prob):
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        self.drop_prob = drop_prob
        hidden = inputs * expand_ratio
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1, activation=nn.SiLU))
        layers += [
            ConvNormActivation(hidden, hidden, kernel, stride, groups=hidden, activation=nn.SiLU),
            SqueezeExcitation(hidden, max(1, inputs // 4), partial(nn.SiLU, inplace=True), nn.Sigmoid),
            ConvNormActivation(hidden, outputs, 1, activation=None),
        ]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_res_connect:
            result = drop_path(result, self.drop_prob, self.training) + x
        return result


class EfficientNet(nn.Module):
    settings = (  # expansion, kernel, stride, channels, blocks
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )  # fmt: skip

    def __init__(self, width: float, depth: float, classes: int):
        super().__init__()
        inputs = scaled(32, width)
        features: list[nn.Module] = [ConvNormActivation(3, inputs, stride=2, activation=nn.SiLU)]
        total, count = sum(repeats(s[-1], depth) for s in self.settings), 0
        for ratio, kernel, stride, channels, blocks in self.settings:
            for i in range(repeats(blocks, depth)):
                outputs = scaled(channels, width)
                features.append(
                    MBConv(inputs, outputs, kernel, stride if i == 0 else 1, ratio, drop_prob=0.2 * count / total)
                )
                inputs, count = outputs, count + 1
        features.append(ConvNormActivation(inputs, 4 * inputs, 1, activation=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(4 * inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def efficientnet_b0(width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> nn.Module:
    return EfficientNet(width, depth, classes)


# --- ConvNeXt-T: Liu et al., CVPR 2022, arXiv:2201.03545


class LayerNorm2d(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        x = input.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int, layer_scale: float = 1e-6, drop_prob: float = 0.0):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim))
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        return shortcut + drop_path(x, self.drop_prob, self.training)


class ConvNeXt(nn.Module):
    def __init__(self, dims: Sequence[int], depths: Sequence[int], classes: int, layer_scale: float):
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0], eps=1e-6))]
        )
        for i in range(3):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm2d(dims[i], eps=1e-6), nn.Conv2d(dims[i], dims[i + 1], 2, 2))
            )
        rates = drop_rates(0.1, sum(depths))
        self.stages = nn.ModuleList()
        for i, blocks in enumerate(depths):
            first = sum(depths[:i])
            self.stages.append(
                nn.Sequential(*[ConvNeXtBlock(dims[i], layer_scale, rates[first + j]) for j in range(blocks)])
            )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        x = self.norm(x.mean([-2, -1]))
        return self.head(x)


def convnext_t(width: float = 1.0, depth: float = 1.0, classes: int = 1000, layer_scale: float = 1e-6) -> nn.Module:
    dims = [scaled(c, width) for c in (96, 192, 384, 768)]
    return ConvNeXt(dims, [repeats(n, depth) for n in (3, 3, 9, 3)], classes, layer_scale)


# --- ESPCN, which ends in a pixel shuffle: Shi et al., CVPR 2016, arXiv:1609.05158


class ESPCN(nn.Module):
    def __init__(self, channels: int, hidden: int, upscale: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 5, padding=2)
        self.conv2 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, 8 * upscale**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(upscale)
        self.norm = nn.GroupNorm(2, 8)
        self.conv4 = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        x = torch.tanh(self.norm(self.pixel_shuffle(self.conv3(x))))
        return self.conv4(x)


def espcn(width: float = 1.0, upscale: int = 3) -> nn.Module:
    """With a group norm and a convolution behind the shuffle, so that its channels are hidden ones."""
    return ESPCN(scaled(64, width), scaled(32, width), upscale)
