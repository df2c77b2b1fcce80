"""The two kinds of method that prune training samples: what each sample is worth, and a course taught on a part of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.kinds import Method
from ..core.run import Run
from ..core.task import Task
from ..evaluate.outputs import Outputs, outputs
from .subset import Pair, pair, shown


@dataclass(frozen=True, eq=False)
class Seen:
    """What a score may know: the network as it stands, all training samples, and which were right at earlier looks."""

    model: nn.Module
    task: Task
    history: Sequence[Tensor] = ()  # bool (samples,) of each earlier look
    seed: int = 0

    @property
    def samples(self) -> Pair:
        """All training samples: inputs and labels."""
        return pair(self.task)

    @cached_property
    def said(self) -> Outputs:
        """What the network says of every training sample, in order, without augmentation and in evaluation mode.

        Raises:
            ResproutError: the task is no classification.
        """
        found = outputs(self.model, shown(self.task), "validation")
        if found is None:
            raise ResproutError(f"training samples are scored by their labels, and {self.task!r} has none")
        return found


class SampleScore(Method):
    """What each training sample is worth: higher is kept.

    One that counts over the looks of a training, and not at a single one, says `over_time`.
    """

    over_time: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """Return the score of each training sample, float (samples,), finite."""


class Course(Method):
    """How a network is trained on a part of the samples: a path of steps, as a recipe is, to no budget."""

    @abstractmethod
    def __call__(self, run: Run) -> None:
        """Train `run.model` by `run.do(step)`; in the end `run.task` is what it was."""
