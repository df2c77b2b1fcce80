"""The sign of one of six numbers, and a run of a perceptron for it with its points "start" and "dense"."""

import torch
from torch import nn

import resprout as rs
from resprout.core.run import Run
from resprout.core.steps import Mark


def task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=g)
    y = (x[:, 0] > 0).long()
    return rs.Arrays((x, y), (x[:32], y[:32]), (x[:32], y[:32]), batch_size=16, name="tiny")


def perceptron(width: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


def start(model: nn.Module, **given) -> Run:
    run = Run(model, task(), probe_batches=2, **given)
    run.do(Mark("start"))
    run.do(Mark("dense"))
    return run
