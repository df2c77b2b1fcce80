"""The kind of method that prunes differences, and all that it may know."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.kinds import Method
from ..core.masks import Masks, prunable
from ..core.modes import evaluating
from ..core.outputs import outputs
from ..core.probe import Loss, Probe
from ..core.run import mix
from ..numerics.curvature import columns, norms, pieces
from .delta import Tensors, added, difference


@dataclass(frozen=True, eq=False)
class Pair:
    """A network before and after it was fine-tuned, and what is known of the task.

    Attributes:
        base, tuned: networks of one architecture.
        ignore: names of weights whose difference stays whole, such as the head of a classifier.
        data, loss: batches without need of labels, and the task's loss, which calls the network.
        worth: of a network, higher is better: a validation metric, where there are labels.
        seed: of every random choice.
    """

    base: nn.Module
    tuned: nn.Module
    ignore: tuple[str, ...] = ()
    data: Sequence[Any] = ()
    loss: Loss | None = None
    worth: Callable[[nn.Module], float] | None = None
    seed: int = 0

    @cached_property
    def whole(self) -> Tensors:
        """The difference of every floating tensor."""
        return difference(self.tuned, self.base)

    @cached_property
    def delta(self) -> Tensors:
        """The differences that can be pruned."""
        return {n: self.whole[n] for n in prunable(self.base, None, self.ignore)}

    def network(self, pruned: Mapping[str, Tensor]) -> nn.Module:
        """Return the base with the pruned differences, and the others whole, added."""
        return added(self.base, {**self.whole, **pruned})

    @torch.no_grad()
    def logits(self, model: nn.Module) -> list[Tensor]:
        """Return what `model` puts out for each batch, in evaluation mode.

        Raises:
            ResproutError: no data.
        """
        if not self.data or self.loss is None:
            raise ResproutError("this looks at outputs: pass data=[batch, ...] and loss=task.loss")
        found = []
        for batch in self.data:
            with evaluating(model), outputs(model) as seen:
                self.loss(model, batch)
            found.append(seen[""].float())
        return found

    @cached_property
    def answers(self) -> list[Tensor]:
        """What the tuned network puts out."""
        return self.logits(self.tuned)

    @cached_property
    def _probe(self) -> Probe:
        if not self.data or self.loss is None:
            raise ResproutError("this looks at inputs of layers: pass data=[batch, ...] and loss=task.loss")
        return Probe(self.tuned, Masks.dense(self.tuned, list(self.delta)), data=self.data, loss=self.loss)

    @cached_property
    def norms(self) -> Tensors:
        """The root of the mean square of each input of each weight, (groups, columns)."""
        return norms(self._probe, list(self.delta))

    @cached_property
    def means(self) -> Tensors:
        """The mean of each input of each weight, float64 (groups, columns).

        Raises:
            ResproutError: no data, or a layer that is not run as a module.
        """
        names = {n.rpartition(".")[0]: n for n in self.delta}
        total, count = {}, dict.fromkeys(self.delta, 0)

        def see(layer: str, x: Tensor) -> None:
            module = self.tuned.get_submodule(layer)
            for piece in pieces(module, x):
                read = columns(module, piece).double()
                total[names[layer]] = total.get(names[layer], 0) + read.sum(1)
                count[names[layer]] += read.shape[1]

        self._probe.watch(list(names), see, inputs=True)
        if missing := [n for n in self.delta if n not in total]:
            raise ResproutError(f"nothing is seen of {missing[0]!r}: it is not run as a module; add it to ignore=(...)")
        return {n: t / count[n] for n, t in total.items()}

    def generator(self, *labels: object) -> torch.Generator:
        """Return a generator of the seed and `labels`."""
        return torch.Generator().manual_seed(mix(self.seed, *labels))


class DeltaPruner(Method):
    """What stays of a difference, and by how much it is rescaled."""

    @abstractmethod
    def __call__(self, pair: Pair) -> Tensors:
        """Return the pruned differences of `pair.delta`, new tensors, zero where they were dropped."""
