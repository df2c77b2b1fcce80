"""A small convolutional network for the 8x8 digits that ship with scikit-learn; ours."""

from torch import nn


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def digits_cnn() -> nn.Sequential:
    """Return a network for inputs of 1x8x8: 97,568 conv and linear weights."""
    return nn.Sequential(
        *_conv(1, 32),
        *_conv(32, 64),
        nn.MaxPool2d(2),
        *_conv(64, 128),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
