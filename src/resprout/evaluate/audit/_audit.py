"""What an audit is, and the network that it looks at; not an audit."""

from __future__ import annotations

import copy
import dataclasses
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Method
from ...core.modes import evaluating
from ...core.run import mix
from ...core.store import configuration
from ...core.task import Task
from ..outputs import Outputs, outputs

Facts = dict[str, Any]  # JSON-able: numbers and intervals [low, high] by name, and tables as lists of rows


@dataclass(frozen=True)
class Audit(Method):
    """A question asked of a finished network, on test data, in evaluation mode; its fields say how it is asked."""

    @abstractmethod
    def __call__(self, subject: Subject) -> Facts:
        """Return what was found.

        Raises:
            ResproutError: the task does not fit the question; `check` says so before anything is trained.
        """

    @abstractmethod
    def check(self, task: Task) -> None:
        """Look at one batch, before anything is trained (see `classifies`).

        Raises:
            ResproutError: the task, or the audit's settings, do not fit.
        """


def classifies(task: Task) -> Tensor:
    """Return the inputs of the first test batch.

    Raises:
        ResproutError: the task is no classification of (inputs, labels).
    """
    batch = next(iter(task.batches("test")))
    if not isinstance(batch, tuple) or len(batch) != 2 or batch[1].dtype != torch.int64 or batch[1].dim() != 1:
        raise ResproutError(
            f"audits are of classifiers: batches (inputs, labels), labels int64 (samples,); {task!r} has others"
        )
    return batch[0]


class Subject:
    """A network under audit, and what several audits ask of it, found once.

    Args:
        model: the network; left as it is.
        task: its data.
        dense: the network that it was pruned from, where it was.
        seed: of what is random: which samples of "train", noise, bootstrap.
    """

    def __init__(self, model: nn.Module, task: Task, dense: Subject | None = None, seed: int = 0):
        self.model, self.task, self.dense, self.seed = model, task, dense, seed
        self._said: dict[tuple[str, int | None], Outputs] = {}

    def test(self) -> Outputs:
        """Return what the network says of the test split, in its order."""
        if ("test", None) not in self._said:
            said = outputs(self.model, self.task, "test")
            assert said is not None  # `Audit.check`
            self._said[("test", None)] = said
        return self._said[("test", None)]

    def members(self, count: int) -> Outputs:
        """Return what it says of `count` samples that it may have been trained on, drawn at random, not augmented."""
        if ("train", count) not in self._said:
            drawn = plain(self.task).batches("train", seed=mix(self.seed, "members"))
            self._said[("train", count)] = self.say(*_first(drawn, count))
        return self._said[("train", count)]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` (inputs, labels) of the test split, as the network gets them."""
        return _first(self.task.batches("test"), count)

    @torch.no_grad()
    def say(self, x: Tensor, y: Tensor, batch: int = 500) -> Outputs:
        """Return what the network says of inputs."""
        device = next(self.model.parameters()).device
        with evaluating(self.model):
            logits = torch.cat([self.model(part.to(device)).float().cpu() for part in x.split(batch)])
        return Outputs(logits, y.cpu())


def _first(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """The first `count` samples of batches, and no batch more than that takes."""
    found: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        found.append(batch)
        if sum(len(y) for _, y in found) >= count:
            break
    return torch.cat([x for x, _ in found])[:count], torch.cat([y for _, y in found])[:count]


def plain(task: Task) -> Task:
    """Return the task without augmentation: what was trained on is seen as it is.

    Tasks that augment by fields `pad` and `flip`, as `Arrays`, lose these; others are taken as they are.
    """
    fields = {f.name for f in dataclasses.fields(task)} if dataclasses.is_dataclass(task) else set()
    off = {name: value for name, value in (("pad", 0), ("flip", False)) if name in fields}
    return dataclasses.replace(task, **off) if off else task  # pyright: ignore[reportArgumentType]


class Auditor:
    """The audits that were asked for, and the dense network that the others are compared with.

    Args:
        audits: name -> audit.
        task: whose data.
        seed: of what is random.

    Raises:
        ResproutError: one does not fit the task.
    """

    def __init__(self, audits: Mapping[str, Audit], task: Task, seed: int = 0):
        self.audits, self.task, self.seed = dict(audits), task, seed
        self._dense: Subject | None = None
        for audit in self.audits.values():
            audit.check(task)

    def __call__(
        self, model: nn.Module, dense: bool = False, known: Mapping[str, Facts] | None = None
    ) -> dict[str, Facts]:
        """Return name -> facts of every audit; `known` ones that were asked in the same way are taken over.

        Args:
            model: the network.
            dense: the one that others are compared with; it must come first.
            known: what was found before.
        """
        known = known or {}
        subject = Subject(copy.deepcopy(model) if dense else model, self.task, self._dense, self.seed)
        self._dense = subject if dense else self._dense
        found = dict(known)
        for name, audit in self.audits.items():
            asked = configuration(audit)
            if known.get(name, {}).get("asked") != asked:
                found[name] = json.loads(json.dumps({"asked": asked} | audit(subject)))
        return found
