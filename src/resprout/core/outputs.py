"""What a network, and the dense one it came from, put out for a batch: of what distillation and comparisons are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ResproutError
from .probe import LossOf, first_tensor
from .run import Run

Outputs = dict[str, Tensor]


@contextmanager
def outputs(model: nn.Module, names: Sequence[str] = ("",)) -> Iterator[Outputs]:
    """Note what modules put out, first tensors only; "" is the network itself, whose first output is its logits.

    The dict fills while the network is called within; of several calls the last counts.
    """
    found: Outputs = {}

    def hook(name: str) -> Any:
        return lambda module, args, out: found.__setitem__(name, first_tensor(out))

    modules = [model.get_submodule(name) for name in names]
    handles = [module.register_forward_hook(hook(name)) for name, module in zip(names, modules, strict=True)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def taught(run: Run, batch: Any, names: Sequence[str] = ("",)) -> Outputs:
    """Return what modules of the dense network (the point "dense") put out for a batch, in evaluation mode.

    Raises:
        ResproutError: no dense network is known.
    """
    if run.anchor is None:
        raise ResproutError('the teacher is the dense network: mark it first, run.do(Mark("dense"))')
    modes = [(m, m.training) for m in run.model.modules()]
    once = {n for n, _ in (*run.model.named_parameters(), *run.model.named_buffers())}  # of tied weights one name
    state = {f"model.{n}": t for n, t in run.tensors_at("dense").items() if n in once}
    run.model.eval()
    try:
        with torch.random.fork_rng(devices=[]), outputs(run.model, names) as found:
            torch.func.functional_call(LossOf(run.model, run.task.loss), state, (batch,), tie_weights=True)
    finally:
        for module, mode in modes:
            module.training = mode
    return found
