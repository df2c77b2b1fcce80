"""The running statistics of batch norms, measured anew: after a cut or an average those of training are another network's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import ResproutError
from .modes import evaluating
from .probe import to_device
from .run import synchronise
from .task import Split, Task


def norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms that keep running statistics, by their names."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


@torch.no_grad()
def recalibrate(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Set the running statistics of batch norms to their mean over `passes`, each a function that runs the model once.

    All passes count alike, and all else is in evaluation mode meanwhile. A network without such norms is not run.
    """
    found = list(norms(model).values())
    if not found:
        return
    momenta = [norm.momentum for norm in found]
    with evaluating(model):
        try:
            for norm in found:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean
                norm.train()
            for once in passes:
                once()
        finally:
            for norm, momentum in zip(found, momenta, strict=True):
                norm.momentum = momentum
    synchronise(model.buffers())


def refresh(model: nn.Module, task: Task, batches: int | None = None, split: Split = "train") -> None:
    """Recalibrate on the batches of a task.

    Args:
        model: changed in place, its modes left as they were.
        task: its loss runs the network.
        batches: how many; default an epoch's.
        split: of the data.

    Raises:
        ResproutError: fewer than one batch.
    """
    if batches is not None and batches < 1:
        raise ResproutError(f"batches must be 1 or more, got {batches!r}")
    if norms(model):
        device = next(model.parameters()).device
        data = islice(task.batches(split), batches)
        recalibrate(model, (lambda b=b: task.loss(model, to_device(b, device)) for b in data))
