"""Cart and pole: push a cart left or right so that the pole on it stands, for 200 moves or longer.

Barto, Sutton, Anderson: "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems", IEEE Transactions on
Systems, Man, and Cybernetics 1983; with the constants of Gymnasium's CartPole (which is not needed), many games at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..core.played import Answer, Played
from ..core.run import mix
from ..core.task import SPLITS, Split

Batch = tuple[Tensor, Tensor, Tensor]
GRAVITY, CART, POLE, HALF, FORCE, TICK = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
EDGE, TILT = 2.4, 12 * math.pi / 180
NOISE = 0.05  # of the first state


@dataclass(frozen=True)
class Cartpole(Played):
    """The metric "return" is the mean length of `games` games played by the best action, as a share of `longest`.

    Batches are of games played by chance, for scores that look at data: (what is seen, action, discounted sum of rewards). The
    loss is the error of the worth of these actions.

    Args:
        longest: moves after which a game is over.
        games: of one evaluation; those of each split are others.
        batch_size: of a batch.
        gamma: the discount.
        steps_per_epoch: what one epoch is, for recipes that count in epochs.
    """

    longest: int = 200
    games: int = 50
    batch_size: int = 64
    gamma: float = 0.99
    steps_per_epoch: int = 500  # pyright: ignore[reportIncompatibleMethodOverride]
    metric: ClassVar[str] = "return"

    def begin(self, players: int, generator: Generator) -> Tensor:
        """Upright, nearly, and at rest; a fifth number counts moves."""
        state = (2 * torch.rand(players, 5, generator=generator) - 1) * NOISE
        state[:, 4] = 0
        return state

    def act(self, state: Tensor, action: Tensor) -> Answer:
        """Push, by 1 to the right and by 0 to the left; each move earns 1."""
        x, speed, tilt, turn, moves = state.unbind(1)
        force = FORCE * (2.0 * action.to(state) - 1)
        sin, cos, mass = tilt.sin(), tilt.cos(), CART + POLE
        pull = (force + POLE * HALF * turn.square() * sin) / mass
        bend = (GRAVITY * sin - cos * pull) / (HALF * (4 / 3 - POLE * cos.square() / mass))
        push = pull - POLE * HALF * bend * cos / mass
        after = torch.stack(
            [x + TICK * speed, speed + TICK * push, tilt + TICK * turn, turn + TICK * bend, moves + 1], 1
        )
        ended = (after[:, 0].abs() > EDGE) | (after[:, 2].abs() > TILT)
        return Answer(after, torch.ones_like(x), ended, ended | (after[:, 4] >= self.longest))

    def seen(self, state: Tensor) -> Tensor:
        """The four numbers, each of about unit size."""
        return state[:, :4] / torch.tensor([EDGE / 2, 1.0, TILT / 2, 1.0], device=state.device)

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield batches of games played by chance; see `Task.batches`."""
        for i in range(start, self.steps_per_epoch if split == "train" else 1):
            g = torch.Generator().manual_seed(mix(seed if split == "train" else 0, split, epoch, i))
            yield tuple(t[shard[0] :: shard[1]] for t in self._by_chance(g))  # pyright: ignore[reportReturnType]

    def _by_chance(self, generator: Generator) -> Batch:
        state, told = self.begin(self.batch_size, generator), []
        alive = torch.ones(self.batch_size)
        while bool(alive.any()):
            action = torch.randint(2, (self.batch_size,), generator=generator)
            answer = self.act(state, action)
            told.append((self.seen(state), action, alive))
            state, alive = answer.state, alive * ~answer.over
        worth, sums = torch.zeros(self.batch_size), []
        for *_, here in reversed(told):
            worth = here * (1 + self.gamma * worth)
            sums.append(worth)
        lengths = torch.stack([here for *_, here in told]).sum(0).long()
        at = (torch.rand(self.batch_size, generator=generator) * lengths).long()  # one move of each game
        rows = torch.arange(self.batch_size)
        seen, actions = (torch.stack([t[j] for t in told])[at, rows] for j in (0, 1))
        return seen, actions, torch.stack(sums[::-1])[at, rows]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return Huber's loss of the worth of what was done."""
        seen, action, worth = batch
        return F.smooth_l1_loss(model(seen).float().gather(1, action[:, None])[:, 0], worth)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return {"return": mean length of games as a share of the longest}."""
        device = next(model.parameters()).device
        state = self.begin(self.games, torch.Generator().manual_seed(mix(0, "games", SPLITS.index(split)))).to(device)
        alive, total = torch.ones(self.games, dtype=torch.bool, device=device), 0
        with torch.no_grad():
            while bool(alive.any()):
                answer = self.act(state, model(self.seen(state)).argmax(1))
                total += int(alive.sum())
                state, alive = answer.state, alive & ~answer.over
        return {"return": total / (self.games * self.longest)}


def cartpole(data: str | None = None) -> Cartpole:
    """Return the task with its defaults.

    Args:
        data: not used.
    """
    return Cartpole()
