"""The difference of two networks of one architecture: taken, put on again, and kept in a small file.

The file is that of `resprout.save` (`docs/file-format.md`): the differences that are not zero near their entropy, biases and
statistics dense. Whole numbers (the count of batches a norm has seen) are left as they are in the base.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.masks import Masks, prunable
from ..deploy import file

Tensors = dict[str, Tensor]


@torch.no_grad()
def difference(tuned: nn.Module, base: nn.Module) -> Tensors:
    """Return tuned - base of every floating tensor of the `state_dict`.

    Raises:
        ResproutError: networks of two architectures.
    """
    ours, theirs = tuned.state_dict(), base.state_dict()
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        odd = next(
            (n for n in ours | theirs if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape), ""
        )
        raise ResproutError(f"a difference is of two networks of one architecture; they part at {odd!r}")
    return {n: t.detach() - theirs[n] for n, t in ours.items() if t.is_floating_point()}


@torch.no_grad()
def added(base: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `base` with `delta` added."""
    model = copy.deepcopy(base)
    state = model.state_dict()
    for name, change in delta.items():
        state[name].add_(change.to(state[name].device, state[name].dtype))
    return model


def save(path: str | Path, base: nn.Module, delta: Mapping[str, Tensor], values: str = "fp16") -> int:
    """Write a difference to a file, and return its bytes; the prunable weights keep what is not zero.

    Raises:
        ResproutError: as `resprout.save`.
    """
    holder = _holder(base, delta)
    own = dict(holder.named_parameters())
    masks = Masks({n: own[n].detach() != 0 for n in prunable(holder)})
    return file.save(path, holder, masks, values=values, provenance={"holds": "a difference; add it to its base"})


def load(path: str | Path, base: nn.Module) -> nn.Module:
    """Return a copy of `base` with the difference in the file added.

    Raises:
        CheckpointError: a file that is damaged, or belongs to another network.
    """
    holder = file.load(path, into=copy.deepcopy(base))
    return added(base, {n: t for n, t in holder.state_dict().items() if t.is_floating_point()})


@torch.no_grad()
def _holder(base: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
    """A network of the base's architecture whose tensors are the differences."""
    holder = copy.deepcopy(base)
    for name, tensor in holder.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(delta[name]) if name in delta else tensor.zero_()
    return holder
