"""A task of six numbers, and a network of 60 + 20 weights for it."""

import torch
from torch import nn

import resprout as rs


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=g)
    y = (x.sum(1) > 0).long()
    parts = [(x[i::3], y[i::3]) for i in range(3)]
    return rs.Arrays(*parts, batch_size=10, name="tiny")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))  # 60 + 20 weights
