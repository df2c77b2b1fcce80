"""Clients: the training samples of a task, split among many; each has a development part of its own.

Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
arXiv:1909.06335 (shares of each class drawn from a Dirichlet distribution); McMahan, Moore, Ramage, Hampson, Agüera y Arcas:
"Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv:1602.05629 (a few classes each).
Clients are simulated, one after another; nothing is sent over a network.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.run import mix
from ..core.task import Task, samples

TRIES = 100  # splits until all clients have enough
WHY = "to be split among clients"


@dataclass(frozen=True)
class Federation:
    """Who takes part: `count` clients, `per_round` of them in each round.

    Each class is shared among them by a Dirichlet distribution: the smaller `alpha`, the less they are alike. With `classes`
    each has samples of so many classes instead. `held` of what a client has is its development part, on which it never trains;
    each has `least` samples or more.
    """

    count: int = 10
    per_round: int = 10
    alpha: float = 0.5
    classes: int | None = None
    held: float = 0.2
    least: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.per_round <= self.count and self.alpha > 0 and 0 < self.held < 1):
            raise ResproutError(f"1 <= per_round <= count, alpha > 0 and 0 < held < 1 are needed, got {self}")
        if self.least < 2 or (self.classes is not None and self.classes < 1):
            raise ResproutError(f"a client needs two samples (least) to train on one and be judged by one, got {self}")

    def split(self, task: Task) -> list[Tensor]:
        """Return which training samples each client has, int64.

        Raises:
            ResproutError: a task that does not hold its samples, or too few of them.
        """
        labels = samples(task, WHY)[1].cpu().numpy()
        rng = np.random.default_rng(mix(self.seed, "clients"))
        for _ in range(TRIES):
            owner = self._by_class(labels, rng) if self.classes else self._by_shares(labels, rng)
            parts = [torch.from_numpy(np.flatnonzero(owner == i)) for i in range(self.count)]
            if min(map(len, parts)) >= self.least:
                return parts
        raise ResproutError(
            f"{len(labels):,} samples do not give {self.count} clients {self.least} each: "
            "fewer clients, a larger alpha or a smaller least"
        )

    def client(self, task: Task, i: int, parts: list[Tensor] | None = None) -> Task:
        """Return the task of client `i`: "train" is what it trains on, "validation" its development part."""
        mine = (self.split(task) if parts is None else parts)[i]
        order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(mix(self.seed, "held", i)))
        cut = min(max(1, round(self.held * len(mine))), len(mine) - 1)
        inputs, labels = samples(task, WHY)
        given: dict[str, Any] = {
            name: (inputs[mine[rows]], labels[mine[rows]])
            for name, rows in (("train", order[cut:]), ("validation", order[:cut]))
        }
        return dataclasses.replace(task, **given)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def drawn(self, generator: torch.Generator) -> list[int]:
        """Return the clients of one round."""
        return torch.randperm(self.count, generator=generator)[: self.per_round].tolist()

    def _by_shares(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        owner = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            mine = rng.permutation(np.flatnonzero(labels == label))
            ends = (np.cumsum(rng.dirichlet([self.alpha] * self.count)) * len(mine)).round().astype(int)
            for i, part in enumerate(np.split(mine, ends[:-1])):
                owner[part] = i
        return owner

    def _by_class(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Deal out shards, each of one class."""
        known, owner = np.unique(labels), np.empty(len(labels), dtype=np.int64)
        turns = np.tile(known, -(-self.count * int(self.classes or 1) // len(known)))[
            : self.count * int(self.classes or 1)
        ]
        holders: dict[Any, list[int]] = {label: [] for label in known}
        for i, turn in enumerate(rng.permutation(len(turns))):
            holders[turns[turn]].append(i // int(self.classes or 1))
        for label, who in holders.items():
            mine = rng.permutation(np.flatnonzero(labels == label))
            for client, part in zip(
                who or [int(rng.integers(self.count))], np.array_split(mine, len(who) or 1), strict=True
            ):
                owner[part] = client
        return owner
