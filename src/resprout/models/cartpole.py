"""A network that says the worth of both actions of the cart and pole; wide, for what is pruned while it learns; ours."""

from torch import nn


def cartpole_mlp() -> nn.Sequential:
    """Return the network for 4 inputs: two hidden layers of 256, 67,072 weights."""
    return nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
