"""The functions for your own loop: thin, they build a probe and a step's own selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import catalog
from .core import granularity as granularities
from .core.errors import ResproutError, check_sparsity
from .core.hold import change_masks, unwrap
from .core.kinds import Allocation, Fill, Priority, Score
from .core.masks import Masks, keep_count, prunable
from .core.probe import Loss, Probe
from .core.roles import selectable
from .core.steps import pruned, regrown
from .core.units import Group, residual, revived
from .graph.structure import Structure
from .graph.trace import trace

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
    example: Any = None,
    seed: int = 0,
) -> Masks:
    """Zero weights of `model` until exactly `sparsity` of the prunable units are dead, and return the masks.

    Args:
        model: changed in place.
        sparsity: fraction of the units that is dead afterwards, in [0, 1]: of the prunable weights (conv and linear by
            default), or of the channels, heads, layers or blocks that `granularity` names.
        score: what a weight is worth, by name or object.
        allocate: how many weights each tensor keeps, by name or object.
        granularity: "weight", a pattern such as "2:4", "block:4x1", or with `example` "channel", "head" or "layer".
        floor: units that each tensor (or group of channels) keeps at least; layers, that the network keeps in all.
        ceiling: the highest density that any tensor keeps, in [0, 1].
        targets, ignore: which parameters (see `masks.prunable`); of channels and heads, those that make them.
        data, loss: batches and `loss(model, batch)`, for scores that look at data.
        masks: prune only among these, so that the result nests in them; default all weights.
        anchor: the dense network, for scores that look back at it.
        example: an input of the model (or what `trace` made of one), to find which channels are coupled.
        seed: of random scores.

    Raises:
        ResproutError: a sparsity outside [0, 1], an unknown name, nothing to prune, NaN, missing data.
        TraceError: a structured granularity, and a model that cannot take the example.

    Example:
        >>> masks = prune(torch.nn.Linear(10, 10), 0.9)
        >>> masks.alive
        10
    """
    check_sparsity(sparsity)
    bare = unwrap(model)
    units, wanted = granularities.parse(granularity), prunable(bare, targets, ignore)
    structured = isinstance(units, granularities.Units)  # units reach into layers that are not wanted themselves
    whole = Masks.dense(bare) if structured else Masks.dense(bare, targets, ignore)
    start = whole if masks is None else masks
    probe = Probe(bare, start, data, loss, _state(anchor), seed)
    probe.groups = selectable(bare, _groups(bare, units, example), wanted, start)
    keep = keep_count(sparsity, units.units(start, probe.groups).total)
    worth, share = catalog.make("score", score), catalog.make("allocate", allocate)
    new = pruned(probe, keep, worth, share, units, floor, ceiling)
    change_masks(bare, start, new, beside=residual(probe.groups))
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
    example: Any = None,
    seed: int = 0,
    rounds: int = 1,
) -> Masks:
    """Bring dead units of `model` back until exactly `sparsity` is dead, and return the masks; none is lost.

    A channel comes back wherever it is coupled; its bias and norms get the anchor's values, if there is one.

    Args:
        model: changed in place: reborn weights get the values of `fill`.
        masks: the weights alive now.
        sparsity: fraction of the units (see `prune`) that is dead afterwards, in [0, 1].
        score: what a dead weight would be worth, by name or object.
        allocate: how many weights each tensor has, by name or object.
        fill: "zero", "kaiming", "xavier" or "anchor" (the dense network's own value).
        granularity: as of `prune`.
        floor: units that each tensor has at least afterwards.
        ceiling: the highest density that a tensor grows to, in [0, 1].
        anchor: the dense network that saliency and fills may look at.
        data, loss: batches and `loss(model, batch)`.
        example: as of `prune`.
        seed: of random scores and fills.
        rounds: equal parts, before each of which the scores are taken anew.

    Raises:
        ResproutError: as `prune`; also a sparsity above that of `masks`, or no round.
    """
    check_sparsity(sparsity)
    if rounds < 1:
        raise ResproutError(f"rounds must be 1 or more, got {rounds}")
    bare = unwrap(model)
    dense = _state(anchor)
    units = granularities.parse(granularity)
    groups = selectable(bare, _groups(bare, units, example), masks, masks)
    start = units.units(masks, groups)
    more = keep_count(sparsity, start.total) - start.alive
    worth, share, filler = (catalog.make(*w) for w in (("score", score), ("allocate", allocate), ("fill", fill)))
    generator = torch.Generator().manual_seed(seed)
    for r in range(1, rounds + 1):
        probe = Probe(bare, masks, data, loss, dense, seed)
        probe.groups = groups
        new = regrown(probe, start.alive + more * r // rounds, worth, share, units, floor, ceiling)
        change_masks(bare, masks, new, filler, dense, generator)
        if dense is not None:
            revived(bare, groups, masks, new, dense)
        masks = new
    return masks


def _groups(model: nn.Module, units: granularities.Granularity, example: Any) -> tuple[Group, ...]:
    """The coupled channels, where a unit is one."""
    if not isinstance(units, granularities.Units):
        return ()
    if example is None:
        raise ResproutError(
            f"granularity={units.kind!r} needs example=: an input that the model can be called with, to find which channels "
            "hang together"
        )
    if isinstance(example, Structure):
        return example.groups
    return trace(model, example, layers=units.kind == "layer").groups


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
