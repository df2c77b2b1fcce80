"""Small models for tests of tracing."""

import torch
from torch import nn


class Fn(nn.Module):
    """A function of the input and of some modules and parameters, as a model."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def seq(*parts):
    return lambda: nn.Sequential(*parts)


relu, bn, conv = nn.ReLU, nn.BatchNorm2d, nn.Conv2d
IMAGE, FLAT = image(3, 4, 8, 8), image(3, 6)
