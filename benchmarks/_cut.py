"""How good a network is right after a cut, without training."""

import copy

import torch
from torch import nn

import resprout as rs


@torch.no_grad()
def accuracy(model: nn.Module, task: rs.Task, masks: rs.Masks) -> float:
    """Return validation accuracy under `masks`, with norm statistics measured anew on eight training batches."""
    cut = copy.deepcopy(model)
    for name, weight in cut.named_parameters():
        if name in masks:
            weight.mul_(masks[name])
    for module in cut.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean
    cut.train()
    for _, (x, _) in zip(range(8), task.batches("train"), strict=False):
        cut(x)
    return task.evaluate(cut.eval(), "validation")["accuracy"]
