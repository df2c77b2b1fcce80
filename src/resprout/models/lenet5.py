"""LeNet-5 with few filters, for questions that all of their subsets must answer.

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition", Proceedings of the IEEE 1998;
with ReLU and pooling that takes images of any size.
"""

from torch import nn


def lenet5_mini() -> nn.Sequential:
    """Return a network for one channel, of 6 and 16 filters: 8,766 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )
