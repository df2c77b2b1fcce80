"""A task whose data come from acting: a world that answers to what is done in it, and what a network is worth in it."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Generator, Tensor

from .task import Task


class Answer(NamedTuple):
    """What a world answers to an action, for many players at once.

    Attributes:
        state: of each, afterwards (players, numbers).
        reward: float (players,).
        ended: bool (players,): nothing more can be earned.
        over: bool (players,): the game begins anew; it ended, or has lasted long enough.
    """

    state: Tensor
    reward: Tensor
    ended: Tensor
    over: Tensor


class Played(Task):
    """A world as plain functions: all there is to know of a game is its state, so that a run killed within one goes on.

    Networks put out the worth of each action.
    """

    @abstractmethod
    def begin(self, players: int, generator: Generator) -> Tensor:
        """Return the states of new games, float (players, numbers)."""

    @abstractmethod
    def act(self, state: Tensor, action: Tensor) -> Answer:
        """Return what happens when each player, at `state`, does `action`, int64 (players,)."""

    @abstractmethod
    def seen(self, state: Tensor) -> Tensor:
        """Return what a network reads of the states."""
