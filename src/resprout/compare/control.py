"""What the controls start from: the masks or the architecture that an arm has found, with new random weights.

Liu, Sun, Zhou, Huang, Darrell: "Rethinking the Value of Network Pruning", ICLR 2019, arXiv:1810.05270 (scratch-E: as many
epochs; scratch-B: as much computation).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import prune
from ..core.errors import ResproutError, TraceError
from ..core.masks import Masks, prunable
from ..core.probe import first_tensor
from ..core.run import mix
from ..core.task import Task
from ..deploy import encoding
from ..deploy.macs import Macs
from ..deploy.target import Target
from ..deploy.trace import lower
from ..graph.shape import Shape, reshape
from ..graph.shrink import shrink
from ..graph.structure import Structure
from ..graph.trace import trace


@dataclass(frozen=True)
class Begun:
    """A network with random weights, its masks, and how many times the usual training it gets."""

    model: nn.Module
    masks: Masks
    times: float = 1.0
    note: str = ""


def start(control: str, model: nn.Module, file: Path, task: Task, cap: float, seed: int) -> Begun:
    """Return what a control trains.

    Args:
        control: one of `arms.CONTROLS`.
        model: the dense network with new random weights; it may be changed.
        file: what the other arm has saved.
        task: for an example of the input.
        cap: the most times the usual training that "scratch_compute" gets.
        seed: of what is random.
    """
    archive = encoding.read(file)
    example = first_tensor(next(iter(task.batches("validation"))))[:1]
    if control == "small":
        count = sum(s.alive for s in archive.weights.values())
        return _small(model, count, example, seed)
    dense, whole = _multiply_adds(model, Masks.dense(model), example), Masks.dense(model).total
    smaller = "shape" in archive.metadata
    if smaller:
        wide = {n: p.shape for n, p in prunable(model).items()}
        model = rescaled(reshape(model, Shape.from_text(archive.metadata["shape"])), wide)
    masks = Masks.dense(model)
    if not smaller:
        masks = Masks({n: _places(archive.weights[n]) if n in archive.weights else m for n, m in masks.items()})
    if control == "shuffled":
        masks = shuffled(masks, seed)
    if control != "scratch_compute":
        same = control == "shuffled" and smaller
        return Begun(
            model, masks, note="the same as scratch: a smaller network has no places to shuffle" if same else ""
        )
    fewer = _multiply_adds(model, masks, example)
    times = dense / fewer if dense and fewer else whole / max(1, masks.alive)
    note = f"trained {min(times, cap):.3g} times as long" + (f", and {times:.3g} would be equal" if times > cap else "")
    return Begun(model, masks, min(times, cap), note + ("" if fewer else " (by weights: multiply-adds are not known)"))


def shuffled(masks: Masks, seed: int) -> Masks:
    """Return masks with as many weights alive in each tensor, at random places."""
    moved = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(mix(seed, "shuffled", name)))
        moved[name] = mask.flatten()[order].view_as(mask)
    return Masks(moved)


def _places(sparse: Any) -> torch.Tensor:
    mask = torch.zeros(sparse.size, dtype=torch.bool)
    mask[sparse.places] = True
    return mask.view(sparse.shape)


def _multiply_adds(model: nn.Module, masks: Masks, example: torch.Tensor) -> float:
    """Those of the weights alive, or 0 where the operations are not known."""
    try:
        return Macs(0, Target(lower(model.eval(), example))).cost(model, masks)
    except TraceError:
        return 0.0


def _small(model: nn.Module, count: int, example: torch.Tensor, seed: int) -> Begun:
    """All layers narrower by the same share, with about `count` prunable weights: the widest that has no more."""
    structure = trace(model.eval(), example)

    def narrower(sparsity: float) -> nn.Module:
        return narrowed(model, sparsity, structure, seed)

    low, high, best = 0.0, 1.0, None
    for _ in range(12):
        middle = (low + high) / 2
        tried = narrower(middle)
        if Masks.dense(tried).total <= count:
            high, best = middle, tried
        else:
            low = middle
    note = ""
    if best is None:
        try:
            best = narrower(1.0)
        except ResproutError as error:
            raise ResproutError(f"no narrower network has {count:,} weights: {error}") from error
        note = f"the narrowest has {Masks.dense(best).total:,} weights, the other arm {count:,}"
    return Begun(best, Masks.dense(best), note=note)


def narrowed(model: nn.Module, sparsity: float, example: torch.Tensor | Structure, seed: int) -> nn.Module:
    """Return a copy of a random network with fewer channels, the same share in all layers, at least one in each.

    Args:
        model: with random weights; left as it is.
        sparsity: the fraction of channels that leave.
        example: an input, or what `trace` made of one.
        seed: of which weights the others are taken from.
    """
    structure = example if isinstance(example, Structure) else trace(model.eval(), example)
    twin = copy.deepcopy(model)
    masks = prune(
        twin, sparsity, score="random", allocate="uniform", granularity="channel", floor=1, example=structure, seed=seed
    )  # fmt: skip
    return rescaled(shrink(twin, masks, structure=structure), {n: p.shape for n, p in prunable(model).items()})


@torch.no_grad()
def rescaled(model: nn.Module, wide: Mapping[str, torch.Size]) -> nn.Module:
    """Give the random weights of a network, cut from those of a `wide` one, the scale that fewer inputs ask for."""
    for name, weight in prunable(model).items():
        before, after = wide[name], weight.shape
        weight.mul_(math.sqrt(math.prod(before[1:]) / math.prod(after[1:])))
    return model
