"""Budgets of a network that dead channels, heads and layers really leave: what is counted is the smaller network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.budget import All, Budget, Nonzero, Sparsity
from ..core.masks import Masks
from ..graph.shape import shape_of
from ..graph.shrink import expand, shrink
from ..graph.structure import Structure
from .file import load
from .latency import Latency
from .macs import Macs
from .program import Conv, Linear, Op, Program
from .target import Target
from .trace import Traced, lower


def smaller(
    model: nn.Module, masks: Masks, structure: Structure, example: Tensor, target: Target, count: bool = False
) -> tuple[nn.Module, Target]:
    """Return the network without its dead units, and the target with its operations; just to `count`, without values."""
    small, traced = shrink(model, masks, structure=structure), target.traced
    if traced is not None:
        traced = (narrowed(traced, small) if count else None) or lower(small, example)
    shape = shape_of(small)
    notes = {**(target.notes or {}), **({} if shape is None else {"shape": shape.to_text()})}
    return small, replace(target, traced=traced, notes=notes)


def narrowed(traced: Traced, small: nn.Module) -> Traced | None:
    """Return the dense network's operations with the sizes of `small`, and tensors of zeros: a hundred times faster than
    to trace it again. None where layers are gone, or tensors were made of others.
    """
    state = small.state_dict()
    ops: list[Op] = []
    for op in traced.program.ops:
        if isinstance(op, Conv | Linear) and op.weight not in state:
            return None
        if isinstance(op, Conv):
            width = state[op.weight].shape[0]
            op = replace(op, channels=width, groups=op.groups * width // op.channels if op.groups > 1 else 1)
        elif isinstance(op, Linear):
            op = replace(op, features=state[op.weight].shape[0])
        ops.append(op)
    if traced.sources:
        return None
    program = Program(traced.program.input, tuple(ops))
    return replace(traced, program=program, tensors={n: torch.zeros(shape) for n, shape in program.needs().items()})


def counted(budget: Budget, structure: Structure, example: Tensor, target: Target) -> Budget:
    """Return `budget` on the target, of the smaller network where that makes a difference.

    Weights alive and their multiply-adds are the same, whether the dead have left or are zero.
    """
    parts = budget.parts if isinstance(budget, All) else (budget,)
    same = all(isinstance(part, Sparsity | Nonzero | Macs) for part in parts)
    return budget.on(target) if same else Smaller(budget, structure, example, target)


@dataclass(frozen=True)
class Smaller(Budget):
    """A budget whose costs are those of the smaller network.

    Attributes:
        inner: the limit.
        structure: which units may leave.
        example: an input, to find the smaller network's operations.
        target: values and device.
    """

    inner: Budget
    structure: Structure = field(compare=False, repr=False)
    example: Tensor = field(compare=False, repr=False)
    target: Target = field(compare=False, repr=False)

    @classmethod
    def read(cls, number: float, unit: str, word: str) -> None:
        """No text means this: `fit` makes it."""

    def _seen(self, model: nn.Module, masks: Masks) -> tuple[Budget, nn.Module, Masks]:
        parts = self.inner.parts if isinstance(self.inner, All) else (self.inner,)
        count = not any(isinstance(part, Latency) for part in parts)  # times are measured with the weights
        small, target = smaller(model, masks, self.structure, self.example, self.target, count)
        names = [n for n in masks if n in dict(small.named_parameters())]
        return self.inner.on(target), small, Masks.dense(small, names)

    @property
    def limit(self) -> float:
        """The inner limit."""
        return self.inner.limit

    def cost(self, model: nn.Module, masks: Masks) -> float:
        """What the smaller network costs."""
        inner, small, alive = self._seen(model, masks)
        return inner.cost(small, alive)

    def measured(self, model: nn.Module, masks: Masks) -> float:
        """What the smaller network costs as measured."""
        inner, small, alive = self._seen(model, masks)
        return inner.measured(small, alive)

    def met(self, cost: float) -> bool:
        """Whether the inner limit is met."""
        return self.inner.met(cost)

    def share(self, cost: float) -> float:
        """The part of the inner limit."""
        return self.inner.share(cost)

    def prices(self, model: nn.Module, masks: Masks) -> Mapping[str, float] | None:
        """Those of the dense network."""
        return self.inner.on(self.target).prices(model, masks)

    def text(self, cost: float | None = None) -> str:
        """The inner limit in words."""
        return self.inner.text(cost)

    def achieved(self, model: nn.Module, masks: Masks) -> dict[str, str]:
        """What the smaller network takes."""
        inner, small, alive = self._seen(model, masks)
        return inner.achieved(small, alive)

    def remedy(self, model: nn.Module, masks: Masks) -> str:
        """As of the inner limit, with one unit left of each group."""
        inner, small, alive = self._seen(model, masks)
        return inner.remedy(small, alive)

    def on(self, target: Any) -> Smaller:
        """The same for another file or device."""
        return replace(self, target=target)


def held_by(file: Path, model: nn.Module, structured: bool) -> nn.Module:
    """Give `model` the values of a file, of a smaller network with zeros where units have left; return what the file holds."""
    if not structured:
        return load(file, model)
    small = load(file, copy.deepcopy(model))
    model.load_state_dict(expand(small, like=model, zeros=True).state_dict())
    return small
