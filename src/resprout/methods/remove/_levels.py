"""A ladder of levels per layer: which inputs leave first, and what the others become to make up for them.

Hassibi, Stork: "Second order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992, for groups of columns; the
databases of levels are those of ZipLM (arXiv:2302.04089). Not a method: `tyr.py` and `darwinlm.py` search over them.

What this file does not do: search (`_evolution.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.masks import Masks
from ...core.roles import making, owner, reading
from ...core.run import Run
from ...core.units import Group, living, spread
from ...numerics.curvature import CONVOLUTIONS, curvature, inverse, least_squares, removal


@dataclass(frozen=True, eq=False)
class Site:
    """Where units can leave: a group of channels or heads, and the one layer that reads it.

    Attributes:
        group: the units; of grouped-query attention a unit is a key-value head with all its queries.
        reader: the weight that reads them.
        blocks: int64 (units, columns), the columns of the flattened weight that belong to each.
        kind: sites of one kind have units of one price.
    """

    group: Group
    reader: str
    blocks: Tensor
    kind: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Level:
    """A state of a site: `gone` units have left, those `alive` have not, and this is the reader's `weight` then."""

    gone: int
    alive: Tensor
    weight: Tensor


def sites(run: Run, budget: Budget) -> list[Site]:
    """Return the groups whose units one linear layer (or plain convolution) alone reads: heads, and channels of MLPs.

    Raises:
        ResproutError: there is none.
    """
    prices, found = budget.prices(run.model, run.masks) or {}, []
    for group in run.groups:
        slots = [s for s in group.slots if s.parameter in run.masks]
        read, made = reading(run.model, group), [s.parameter for s in making(run.model, group)]
        if group.kind == "layer" or len(read) != 1 or read[0] not in slots or not set(made) & set(run.masks):
            continue
        module, weight = owner(run.model, read[0].parameter), run.weights()[read[0].parameter]
        if not isinstance(module, nn.Linear | CONVOLUTIONS) or getattr(module, "groups", 1) != 1:
            continue
        each = weight[0, 0].numel()
        blocks = (read[0].index[..., None] * each + torch.arange(each)).flatten(1)
        sizes = ((run.masks[s.parameter].shape, s.dim, s.repeat, prices.get(s.parameter)) for s in slots)
        found.append(Site(group, read[0].parameter, blocks, (group.kind, len(group), *sizes)))
    if not found:
        raise ResproutError(
            "no heads or channels that a single layer reads are known: give granularity 'width', 'channel', 'head' or 'layer'"
        )
    return found


class Surgeon:
    """Takes groups of columns out of a layer's weight; after each the others are what comes nearest to the whole layer.

    Args:
        weight: (outputs, inputs, ...).
        hessian: H of its inputs, (1, columns, columns), damped (see `numerics.curvature`).
        blocks: int64 (units, columns).
        alive: bool (units,), those that have not left yet; the columns of others are zero.
        first_order: whether `costs` adds W_g (H W)_g, what a unit has in common with all that the layer put out.
    """

    def __init__(self, weight: Tensor, hessian: Tensor, blocks: Tensor, alive: Tensor, first_order: bool = False):
        self.weight = weight.detach().double().flatten(1).clone()
        self.blocks, self.alive, self.first_order = (
            blocks.to(weight.device),
            alive.clone().to(weight.device),
            first_order,
        )
        self.inverse = inverse(hessian)
        self._target = self.weight @ hessian[0]

    def costs(self) -> Tensor:
        """Return (units,): what the layer's error becomes by each unit alone, 1/2 W_g (H^-1_gg)^-1 W_g; infinite for the gone."""
        found = torch.full((len(self.blocks),), torch.inf, dtype=torch.float64, device=self.weight.device)
        left = self.blocks[self.alive]
        found[self.alive] = removal(self.weight, self.inverse, left)
        if self.first_order:
            found[self.alive] += (self.weight * self._target)[:, left].sum((0, 2))
        return found

    def remove(self, units: Tensor) -> None:
        """Take out `units` (int64) at once: W - W_g (H^-1_gg)^-1 H^-1_g, and the inverse becomes that of what stays."""
        at = self.blocks[units].flatten()
        across = self.inverse[0][at]
        moved = torch.linalg.solve(across[:, at], across)
        self.weight -= self.weight[:, at] @ moved
        self.inverse[0] -= across.T @ moved
        self.weight[:, at] = 0  # exactly
        self.inverse[0][at] = 0
        self.inverse[0][:, at] = 0
        self.alive[units] = False


def ladder(
    weight: Tensor, hessian: Tensor, blocks: Tensor, alive: Tensor, counts: Sequence[int], at_once: int,
    first_order: bool = False,
) -> list[Level]:  # fmt: skip
    """Return a level for each of `counts`, ascending numbers of units gone in all; the levels nest.

    Args:
        weight, hessian, blocks, alive, first_order: as of `Surgeon`.
        counts: from the number gone already to all of them.
        at_once: units removed between two looks at the costs.
    """
    surgeon, levels = Surgeon(weight, hessian, blocks, alive, first_order), []
    for count in counts:
        while (missing := count - int((~surgeon.alive).sum())) > 0:
            surgeon.remove(surgeon.costs().argsort(stable=True)[: min(missing, at_once)])
        now, fitted = surgeon.alive.clone().cpu(), weight.detach().clone()
        if count == len(blocks):
            fitted.zero_()
        elif not torch.equal(now, alive.cpu()):  # once more from the whole layer, without what rounding has left
            keep = torch.zeros(weight[0].numel(), dtype=torch.bool)
            keep[blocks[now].flatten()] = True
            fitted = least_squares(weight, hessian, keep)
        levels.append(Level(count, now, fitted))
    return levels


def database(
    fork: Run, places: Sequence[Site], counts: Sequence[Sequence[int]], rounds: Sequence[int], damping: float,
    first_order: bool = False, standing: Sequence[int] | None = None,
) -> list[list[Level]]:  # fmt: skip
    """Return the levels of each site.

    Args:
        fork: a copy of the run; with `standing` its weights change.
        places: in the order in which the network runs them.
        counts: units gone at each level, per site.
        rounds: looks at the costs until the last level, per site.
        damping: see `numerics.curvature`.
        first_order: see `Surgeon`.
        standing: the number of units gone with which each site meanwhile stands for all of its levels, so that those behind it
            see the error that has accumulated. Without, all see the network as it is.
    """
    probe, params, before = fork.probe("levels"), fork.weights(), living([p.group for p in places], fork.masks)
    probe.training = False
    fork.model.eval()
    once = {} if standing is not None else curvature(probe, [p.reader for p in places], damping)
    found = []
    for i, place in enumerate(places):
        h = once.pop(place.reader) if once else curvature(probe, [place.reader], damping)[place.reader]
        at_once = max(1, math.ceil((counts[i][-1] - counts[i][0]) / rounds[i]))
        alive, mask = before[place.group.name], fork.masks[place.reader]
        levels = ladder(params[place.reader], h, place.blocks, alive, counts[i], at_once, first_order)
        found.append([Level(lv.gone, lv.alive, lv.weight * mask) for lv in levels])
        if standing is not None:
            with torch.no_grad():
                params[place.reader].copy_(next(lv.weight for lv in found[-1] if lv.gone == standing[i]))
    return found


def base(run: Run, budget: Budget, places: Sequence[Site], counts: Sequence[Sequence[int]]) -> list[int]:
    """Return the index into its `counts` for each site: the same share of all of them, the least that meets `budget`.

    Where the share is no whole index, the later sites of a kind have one more than the earlier. Where that is more than the
    budget asks for, since units are large, the kinds of many units give some back.

    Raises:
        BudgetError: not even the last of each meets it.
    """
    ranks, sizes = [], defaultdict[tuple[object, ...], int](int)
    for place in places:
        ranks.append(sizes[place.kind])
        sizes[place.kind] += 1

    def at(shares: Mapping[tuple[object, ...], float]) -> list[int]:
        extra = [(r + 0.5) / sizes[p.kind] for r, p in zip(ranks, places, strict=True)]
        wished = (shares[p.kind] * (len(c) - 1) + e for p, c, e in zip(places, counts, extra, strict=True))
        return [min(len(c) - 1, math.floor(w)) for c, w in zip(counts, wished, strict=True)]

    def masks(shares: Mapping[tuple[object, ...], float]) -> Masks:
        alive = living([p.group for p in places], run.masks)
        for place, index, c in zip(places, at(shares), counts, strict=True):
            left = alive[place.group.name].nonzero().flatten()  # which of them does not matter for what it costs
            alive[place.group.name][left[len(place.group) - c[index] :]] = False
        return _masks(run, places, [alive[p.group.name] for p in places])

    def met(shares: Mapping[tuple[object, ...], float]) -> bool:
        return budget.met(budget.cost(run.model, masks(shares)))

    shares = dict.fromkeys(sizes, 1.0)
    budget.check(run.model, masks(shares))
    most = {p.kind: len(c) for p, c in zip(places, counts, strict=True)}
    for kinds in (list(sizes), *([k] for k in sorted(sizes, key=lambda k: -most[k]))):
        low, high = 0.0, shares[kinds[0]]
        if met(shares | dict.fromkeys(kinds, low)):
            high = low
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if met(shares | dict.fromkeys(kinds, middle)) else (middle, high)
        shares |= dict.fromkeys(kinds, high)
    return at(shares)


def settle(run: Run, places: Sequence[Site], levels: Sequence[Level]) -> None:
    """Put one level of each site in force: new weights of the readers, and the masks."""
    with torch.no_grad():
        for place, level in zip(places, levels, strict=True):
            run.weights()[place.reader].copy_(level.weight)
    run.set_masks(_masks(run, places, [level.alive for level in levels]))


def _masks(run: Run, places: Sequence[Site], alive: Sequence[Tensor]) -> Masks:
    left = {p.group.name: a for p, a in zip(places, alive, strict=True)}
    found = spread([p.group for p in places], left, {n: m.shape for n, m in run.masks.items()})
    return run.masks & Masks({n: m.to(run.masks[n].device) for n, m in found.items()})
