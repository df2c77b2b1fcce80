"""What a network, and the dense one it came from, read and put out for a batch: of what distillation and comparisons are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ResproutError
from .modes import evaluating
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


@contextmanager
def inputs(model: nn.Module, names: Sequence[str]) -> Iterator[Outputs]:
    """Note what modules read, first tensors only, as `outputs` does what they put out."""
    found: Outputs = {}

    def hook(name: str) -> Any:
        return lambda module, args, given: found.__setitem__(name, first_tensor((args, given) if args else given))

    modules = [model.get_submodule(name) for name in names]
    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in zip(names, modules, strict=True)]
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
    once = {n for n, _ in (*run.model.named_parameters(), *run.model.named_buffers())}  # of tied weights one name
    state = {f"model.{n}": t for n, t in run.tensors_at("dense").items() if n in once}
    with evaluating(run.model), torch.random.fork_rng(devices=[]), outputs(run.model, names) as found:
        torch.func.functional_call(LossOf(run.model, run.task.loss), state, (batch,), tie_weights=True)
    return found
