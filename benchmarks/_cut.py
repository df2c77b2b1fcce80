"""How good a network is right after a cut, without training."""

import copy

import torch
from torch import nn

import resprout as rs
from resprout.core.norms import refresh


@torch.no_grad()
def accuracy(model: nn.Module, task: rs.Task, masks: rs.Masks) -> float:
    """Return validation accuracy under `masks`, with norm statistics measured anew on eight training batches."""
    cut = copy.deepcopy(model)
    for name, weight in cut.named_parameters():
        if name in masks:
            weight.mul_(masks[name])
    refresh(cut, task, batches=8)
    return task.evaluate(cut.eval(), "validation")["accuracy"]
