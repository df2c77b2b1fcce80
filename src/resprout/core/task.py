"""Task: batches of a split, a loss, metrics. The only thing a run knows of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from .errors import ResproutError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Task(ABC):
    """What a network is for.

    The three splits are three things: weights and masks may look at "train", choices (epochs, rewards, allocations,
    stopping) at "validation", and "test" is read once, for the final number. A task's `repr` is its configuration, from
    which the name of a run folder is made.
    """

    metric: ClassVar[str] = "accuracy"  # the metric that choices go by; higher is better

    @abstractmethod
    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Any]:
        """Yield the batches of one epoch, the same for the same arguments.

        Args:
            split: which data.
            seed: with `epoch` decides order and augmentation of "train"; the others come in order, as they are.
            epoch: which pass over the data.
            start: the first batch to yield; those before are skipped without being made.
            shard: (rank, world): this rank's part of every batch.

        Raises:
            ResproutError: the split is empty.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scalar training loss of one batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return the metrics of `model` (in evaluation mode) on a whole split; `metric` among them."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches in one epoch of "train"."""

    def suits(self, model: nn.Module) -> Mapping[str, Any]:
        """Return fields of a recipe, such as `lr` and `optimizer`, whose defaults (made for images) do not suit this task."""
        return {}


Recipe = TypeVar("Recipe")


def suited(recipe: Recipe, task: Task, model: nn.Module) -> Recipe:
    """Return a recipe with what suits the task wherever it has its defaults."""
    given: Any = recipe
    left = {f.name for f in fields(given) if getattr(given, f.name) == f.default}
    return replace(given, **{k: v for k, v in task.suits(model).items() if k in left})


def samples(task: Task, why: str) -> tuple[Tensor, Tensor]:
    """Return all training samples of a task that holds them as a field: inputs and labels.

    Raises:
        ResproutError: it does not; `why` says what they are wanted for.
    """
    found = getattr(task, "train", None)
    if not is_dataclass(task) or not isinstance(found, tuple) or len(found) != 2:
        raise ResproutError(f"{task!r} does not hold its training samples as train = (inputs, labels), {why}")
    return found
