"""LeNet-300-100, the small fully connected network of the pruning literature.

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition", Proceedings of the IEEE 1998.
"""

from torch import nn


def lenet_300_100() -> nn.Sequential:
    """Return the network for 784 inputs: 266,200 weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
