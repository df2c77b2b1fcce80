"""The functions for your own loop: thin, they build a probe and a step's own selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import catalog
from .core import granularity as granularities
from .core.errors import check_sparsity
from .core.hold import change_masks, unwrap
from .core.kinds import Allocation, Fill, Priority, Score
from .core.masks import Masks, keep_count
from .core.probe import Loss, Probe
from .core.steps import pruned, regrown

Data = Sequence[Any] | None


def prune(
    model: nn.Module,
    sparsity: float,
    *,
    score: str | Score = "magnitude",
    allocate: str | Allocation = "global",
    granularity: str | granularities.Granularity = "weight",
    floor: int = 0,
    ceiling: float = 1.0,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    data: Data = None,
    loss: Loss | None = None,
    masks: Masks | None = None,
    anchor: nn.Module | None = None,
    seed: int = 0,
) -> Masks:
    """Zero weights of `model` until exactly `sparsity` of the prunable ones are zero, and return the masks.

    Args:
        model: changed in place.
        sparsity: fraction of the prunable weights (conv and linear by default) that is zero afterwards, in [0, 1].
        score: what a weight is worth, by name or object.
        allocate: how many weights each tensor keeps, by name or object.
        granularity: "weight", or a pattern such as "2:4".
        floor: weights that each tensor keeps at least.
        ceiling: the highest density that any tensor keeps, in [0, 1].
        targets, ignore: which parameters (see `masks.prunable`).
        data, loss: batches and `loss(model, batch)`, for scores that look at data.
        masks: prune only among these, so that the result nests in them; default all weights.
        anchor: the dense network, for scores that look back at it.
        seed: of random scores.

    Raises:
        ResproutError: a sparsity outside [0, 1], an unknown name, nothing to prune, NaN, missing data.

    Example:
        >>> masks = prune(torch.nn.Linear(10, 10), 0.9)
        >>> masks.alive
        10
    """
    check_sparsity(sparsity)
    bare = unwrap(model)
    start = Masks.dense(bare, targets, ignore) if masks is None else masks
    probe = Probe(bare, start, data, loss, _state(anchor), seed)
    units = granularities.parse(granularity)
    worth, share = catalog.make("score", score), catalog.make("allocate", allocate)
    new = pruned(probe, keep_count(sparsity, start.total), worth, share, units, floor, ceiling)
    change_masks(bare, start, new)
    return new


def regrow(
    model: nn.Module,
    masks: Masks,
    sparsity: float,
    *,
    score: str | Score = "saliency",
    allocate: str | Allocation = "global",
    fill: str | Fill = "zero",
    granularity: str | granularities.Granularity = "weight",
    floor: int = 0,
    ceiling: float = 1.0,
    anchor: nn.Module | None = None,
    data: Data = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Masks:
    """Bring dead weights of `model` back until exactly `sparsity` is zero, and return the masks; none is lost.

    Args:
        model: changed in place: reborn weights get the values of `fill`.
        masks: the weights alive now.
        sparsity: fraction of the prunable weights that is dead afterwards, in [0, 1].
        score: what a dead weight would be worth, by name or object.
        allocate: how many weights each tensor has, by name or object.
        fill: "zero", "kaiming", "xavier" or "anchor" (the dense network's own value).
        granularity: "weight", or a pattern such as "2:4".
        floor: weights that each tensor has at least afterwards.
        ceiling: the highest density that a tensor grows to, in [0, 1].
        anchor: the dense network that saliency and fills may look at.
        data, loss: batches and `loss(model, batch)`.
        seed: of random scores and fills.

    Raises:
        ResproutError: as `prune`; also a sparsity above that of `masks`.
    """
    check_sparsity(sparsity)
    bare = unwrap(model)
    dense = _state(anchor)
    probe = Probe(bare, masks, data, loss, dense, seed)
    units = granularities.parse(granularity)
    worth, share = catalog.make("score", score), catalog.make("allocate", allocate)
    new = regrown(probe, keep_count(sparsity, masks.total), worth, share, units, floor, ceiling)
    generator = torch.Generator().manual_seed(seed)
    change_masks(bare, masks, new, catalog.make("fill", fill), dense, generator)
    return new


def attention_similarity(dense: nn.Module, sparse: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
    """Return conv weight name -> similarity (SSIM) of the spatial attention maps of two networks; low means damaged.

    Args:
        dense, sparse: networks of one architecture, compared in evaluation mode.
        batches: inputs, or tuples that begin with inputs.

    Raises:
        ResproutError: `batches` is empty, or the networks differ.
    """
    priority: Priority = catalog.make("priority", "attention_ssim")

    def run(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0] if isinstance(batch, tuple | list) else batch).float().sum()

    def probe(model: nn.Module) -> Probe:
        return Probe(unwrap(model), None, batches, run, training=False)

    return priority(probe(dense), probe(sparse))


def _state(model: nn.Module | None) -> Mapping[str, Tensor] | None:
    return None if model is None else unwrap(model).state_dict()
