"""A task that looks at the same data with the same network only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.store import checksum
from ..core.task import Split, Task
from ..evaluate.outputs import Outputs, outputs
from ..tasks.arrays import Arrays


class Once(Task):
    """`task`, which remembers what it measured of which network, and what the network said of every test sample.

    Its `repr`, which names run folders, is the task's own.
    """

    def __init__(self, task: Task):
        self.task, self.metric = task, task.metric  # pyright: ignore[reportAttributeAccessIssue]
        self._metrics: dict[tuple[Split, bool, str], dict[str, float]] = {}
        self._said: dict[str, Outputs] = {}

    def __repr__(self) -> str:
        return repr(self.task)

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Any]:
        """The task's."""
        return self.task.batches(split, seed=seed, epoch=epoch, start=start, shard=shard)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's."""
        return self.task.loss(model, batch)

    @property
    def steps_per_epoch(self) -> int:
        """The task's."""
        return self.task.steps_per_epoch

    def suits(self, model: nn.Module) -> Mapping[str, Any]:
        """As of the task."""
        return self.task.suits(model)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The task's metrics; of a classification of arrays they follow from what the network says of each sample."""
        at = (split, torch.is_autocast_enabled("cpu"), checksum(model.state_dict()))
        if at not in self._metrics:
            said = self.said(model) if split == "test" and isinstance(self.task, Arrays) else None
            self._metrics[at] = (
                {"accuracy": said.accuracy, "loss": said.loss} if said else self.task.evaluate(model, split)
            )
        return self._metrics[at]

    def said(self, model: nn.Module) -> Outputs | None:
        """What the network says of every test sample, or None where the task is no classification."""
        at = checksum(model.state_dict())
        if at not in self._said:
            said = outputs(model, self.task, "test")
            if said is None:
                return None
            self._said[at] = said
        return self._said[at]
