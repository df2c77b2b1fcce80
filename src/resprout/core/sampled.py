"""A network that is called many times in turn to make one sample: a task that says how, and gradients through all the calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .task import Task

Network = Callable[[Tensor], Tensor]


class Sampled(Task):
    """A task whose networks make samples, from noise, in `moves` moves; deterministic in the noise."""

    @property
    @abstractmethod
    def moves(self) -> int:
        """Moves from noise to a sample."""

    @abstractmethod
    def noise(self, batch: Any) -> Tensor:
        """Return the noise that the samples of `batch` begin with; no network has touched it."""

    @abstractmethod
    def move(self, model: Network, latents: Tensor, i: int, batch: Any) -> Tensor:
        """Return the latents after move `i` (from 0), from those before; `batch` has what the samples are to be."""


def sample(task: Sampled, model: Network, batch: Any, keep: bool = False) -> Tensor:
    """Return the final latents of `batch`, differentiable in what `model` computes with.

    Only the latents between the moves are kept; the backward pass makes each move once more, so that it holds what one move
    needs and not all. `model` must compute the same again, its random numbers included (`part.steady`).

    Args:
        task: how to sample.
        model: what is called.
        batch: the noise, and what is to become of it.
        keep: hold all moves for the backward pass instead.
    """
    z = task.noise(batch)
    for i in range(task.moves):
        if keep:
            z = task.move(model, z, i, batch)
        else:
            z = checkpoint(task.move, model, z, i, batch, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(z, Tensor)
    return z
