"""What stands between training and a network: it is called in the network's place, and computes with weights it has made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ResproutError


class Part(nn.Module, ABC):
    """Trained in place of the network; what of it is trained are its parameters that require gradients.

    Attributes:
        model: the network.
        t: progress of the training, in [0, 1].
        apart: parameters of its own that learn at a rate of their own, and do not decay.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.t = model, 0.0
        self.apart: list[nn.Parameter] = []
        self._flags = {p: p.requires_grad for p in model.parameters()}

    @abstractmethod
    def effective(self) -> dict[str, Tensor]:
        """Return the weights that the network computes with in place of its own."""

    @abstractmethod
    def penalty(self) -> Tensor | float:
        """Return what is added to the loss."""

    @abstractmethod
    def finish(self, done: bool) -> None:
        """Leave the network as training has made it, or (not `done`) was when it was interrupted."""

    def thaw(self) -> None:
        """Let all of the network be trainable that was when this was made."""
        for p, flag in self._flags.items():
            p.requires_grad_(flag)

    @property
    def size(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return torch.func.functional_call(self.model, self.effective(), args, kwargs, tie_weights=True)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Have the network itself compute with these weights for a while, as in use."""
        params, mode = dict(self.model.named_parameters()), self.training
        self.training = False
        with torch.no_grad():
            made = self.effective()
            kept = {n: params[n].detach().clone() for n in made}
        self.training = mode
        write(params, made)
        try:
            yield
        finally:
            write(params, kept)


@torch.no_grad()
def write(params: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters."""
    for name, value in values.items():
        params[name].copy_(value)


def steady(model: nn.Module) -> Callable[..., Any]:
    """Return what calls `model` with the weights of this moment, made once: for objectives that call it several times.

    Without it each call would draw, and count, anew.

    Raises:
        ResproutError: several processes, which would not learn of each other's gradients.
    """
    if not isinstance(model, Part):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ResproutError("an objective that calls the network several times trains in one process only")
        return model
    made = model.effective()
    return lambda *args, **kwargs: torch.func.functional_call(model.model, made, args, kwargs, tie_weights=True)
