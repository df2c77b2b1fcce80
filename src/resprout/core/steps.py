"""The verbs: Prune, Regrow, Remove, Rewind, Search, and the small ones that meet a budget, arrive, mark and look.

Train is in `train.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .budget import NEAR, Budget
from .errors import BudgetError, ResproutError, check_sparsity
from .granularity import Granularity, Weight
from .kinds import Allocation, Fill, Remover, Score, Scores, Searcher, Step
from .masks import Masks, keep_count
from .probe import Probe
from .roles import role
from .run import Run
from .select import Elementwise, Picks, greedy

DRIFT = 0.1  # a network this near to its budget is settled on it; one that is further off has not been led there


def pruned(
    probe: Probe,
    keep: int,
    score: Score,
    allocate: Allocation,
    granularity: Granularity,
    floor: int = 0,
    ceiling: float = 1.0,
    prices: Mapping[str, float] | None = None,
) -> Masks:
    """Return masks with exactly `keep` of the living units: those that score best. They nest in the old ones.

    Raises:
        ResproutError: more than there are alive, or bounds that exclude it.
    """
    masks = probe.masks
    units = granularity.units(masks, probe.groups)
    if keep > units.alive:
        raise ResproutError(
            f"cannot prune to {keep:,} {granularity.noun} alive: {units.alive:,} are (sparsity {units.sparsity:.6g}); "
            "use regrow"
        )
    among = None if masks.alive == masks.total else masks
    scores = Scores(score(probe), among, None, score.order, score.rows, probe.groups, _makers(probe))
    return granularity.choose(scores, keep, allocate, floor, ceiling, prices)


def regrown(
    probe: Probe,
    keep: int,
    score: Score,
    allocate: Allocation,
    granularity: Granularity,
    floor: int = 0,
    ceiling: float = 1.0,
    prices: Mapping[str, float] | None = None,
) -> Masks:
    """Return masks with exactly `keep` units alive: all that live now, and the best-scoring of the dead.

    Raises:
        ResproutError: fewer than there are alive, or bounds that exclude it.
    """
    masks = probe.masks
    units = granularity.units(masks, probe.groups)
    if keep < units.alive:
        raise ResproutError(
            f"cannot regrow to {keep:,} {granularity.noun} alive: {units.alive:,} are (sparsity {units.sparsity:.6g}); "
            "use prune"
        )
    scores = Scores(score(probe), ~masks, masks, score.order, score.rows, probe.groups, _makers(probe))
    return granularity.choose(scores, keep, allocate, floor, ceiling, prices)


def _makers(probe: Probe) -> frozenset[tuple[str, int]]:
    """The weights that make units, and along which dimension."""
    slots = (s for g in probe.groups for s in g.slots if s.parameter in probe.masks)
    return frozenset((s.parameter, s.dim) for s in slots if role(probe.model, s) != "read")


def chooser(
    probe: Probe,
    score: Score,
    allocate: Allocation,
    floor: int = 0,
    prices: Mapping[str, float] | None = None,
    granularity: Granularity = Weight(),  # noqa: B008
) -> Callable[[int], Masks]:
    """Return what `Budget.keep` searches with: units alive -> masks, cut from those of now or grown on them.

    Scores are taken once; a `floor` holds for cuts.
    """
    once = _Once(functools.cache(lambda: score(probe)), score.order, score.rows)
    alive = granularity.units(probe.masks, probe.groups).alive

    def choose(keep: int) -> Masks:
        if keep > alive:
            return regrown(probe, keep, once, allocate, granularity, prices=prices)
        return pruned(probe, keep, once, allocate, granularity, floor, prices=prices)

    return choose


class _Once(Score):
    """A score that has been taken."""

    def __init__(self, found: Callable[[], Mapping[str, Any]], order: int, rows: bool):
        for name, value in (("found", found), ("order", order), ("rows", rows)):
            object.__setattr__(self, name, value)

    def __call__(self, probe: Probe) -> Mapping[str, Any]:
        return self.found()  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Prune(Step):
    """Cut until `sparsity` of the units are dead: rank the living, keep the best. Units are the run's unless given."""

    sparsity: float
    score: Score
    allocate: Allocation
    granularity: Granularity | None = None
    floor: int = 0
    ceiling: float = 1.0

    def __call__(self, run: Run) -> dict[str, Any]:
        """Cut."""
        what = self.granularity or run.granularity
        keep = keep_count(check_sparsity(self.sparsity), what.units(run.masks, run.groups).total)
        return run.set_masks(pruned(run.probe(), keep, self.score, self.allocate, what, self.floor, self.ceiling))


@dataclass(frozen=True)
class Regrow(Step):
    """Grow back until `sparsity` of the units are dead: rank the dead, wake the best with the values of `fill`."""

    sparsity: float
    score: Score
    allocate: Allocation
    fill: Fill
    granularity: Granularity | None = None
    floor: int = 0
    ceiling: float = 1.0

    def __call__(self, run: Run) -> dict[str, Any]:
        """Grow."""
        what = self.granularity or run.granularity
        keep = keep_count(check_sparsity(self.sparsity), what.units(run.masks, run.groups).total)
        masks = regrown(run.probe(), keep, self.score, self.allocate, what, self.floor, self.ceiling)
        return run.set_masks(masks, self.fill)


@dataclass(frozen=True)
class Meet(Step):
    """Prune or regrow to the most units that `budget` allows: to the last byte (with `try_only`, just find out)."""

    budget: Budget
    score: Score
    allocate: Allocation
    fill: Fill | None = None
    floor: int = 0
    try_only: bool = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """Find the exact masks and put them in force.

        Raises:
            BudgetError: the budget cannot be met; the message says how near one gets.
        """
        prices, units = self.budget.prices(run.model, run.masks), run.units
        choose = chooser(run.probe(), self.score, self.allocate, self.floor, prices, run.granularity)
        least = sum(min(self.floor, size) for size in units.sizes.values())
        masks = self.budget.keep(run.model, choose, least, units.total)
        facts = {"keep": run.granularity.units(masks, run.groups).alive, "asked": str(self.budget)}
        facts["cost"] = self.budget.cost(run.model, masks)
        return facts if self.try_only else facts | run.set_masks(masks, self.fill)


@dataclass(frozen=True)
class Arrive(Step):
    """The network keeps `budget`: settle it there, note its cost and validation accuracy, and keep it as a point.

    Without `grow`, nothing comes back where the budget has room for it.
    """

    budget: Budget
    grow: bool = True

    def __call__(self, run: Run) -> dict[str, Any]:
        """Settle, measure, and mark.

        Raises:
            BudgetError: the network is over the budget, and not by a little.
        """
        alive = run.masks.alive
        cost = settle(run, self.budget, self.grow)
        achieved = self.budget.achieved(run.model, run.masks)
        if not self.budget.met(cost):
            raise BudgetError(f"asked for {self.budget}, and the network takes {', '.join(achieved.values())}")
        point = f"budget-{self.budget}".replace(", ", "+").replace(" ", "-")
        run.mark(point)
        facts = {"budget": str(self.budget), "cost": cost, "achieved": achieved, "point": point}
        return facts | {"settled": run.masks.alive - alive, "validation": run.evaluate()}


def settle(run: Run, budget: Budget, grow: bool = True) -> float:
    """Bring a network near its budget onto it, and return the cost as measured.

    Training moves what depends on the values of weights (the bytes of a file of integers) or is measured. What is over
    is taken from the weights with the least share of their tensor's squares; what is under by more than `NEAR` says goes
    to the dead weights that had the largest in the dense network, with their values there (if they may `grow`).
    """
    for _ in range(4):
        cost, old = budget.measured(run.model, run.masks), run.masks
        share, met = budget.share(cost), budget.met(cost)
        off = not met or (grow and share < NEAR and old.alive < old.total and run.anchor is not None)
        if not off or abs(share - 1) > DRIFT:
            return cost
        _approach(run, budget, grow=met)
        if run.masks == old:
            return cost
    return budget.measured(run.model, run.masks)


def _approach(run: Run, budget: Budget, grow: bool) -> None:
    """Regrow to the most weights that the budget allows, or cut to them and leave each layer one at least."""
    old, source = run.masks, run.anchor if grow and run.anchor is not None else run.weights()
    values = {n: source[n].detach() for n in old}
    shares = {n: _squares(w) for n, w in values.items()}
    scores = Scores(shares, ~old if grow else old, old if grow else None, groups=run.groups)
    prices, floor, units = budget.prices(run.model, old), 0 if grow else 1, run.units
    low, high = (units.alive, units.total) if grow else (sum(map(bool, units.counts.values())), units.alive)
    with torch.no_grad():  # what grows costs what its value takes
        for name, weight in run.weights().items():
            weight.copy_(torch.where(old[name], weight, values[name]))

    def choose(keep: int) -> Masks:
        return run.granularity.choose(scores, keep, _Ranked(), floor, prices=prices)

    run.set_masks(budget.keep(run.model, choose, low, high), values=values)


def _squares(weight: torch.Tensor) -> Elementwise:
    """Each weight's share of the squares of its tensor."""
    total = max(float(weight.square().sum()), 1e-30)
    return Elementwise(lambda w: w.square() / total, (weight,))


class _Ranked(Allocation):
    """The best weights per price, wherever they are."""

    fidelity = "identity-checked"

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> Picks:
        settled = None if scores.settled is None else scores.settled.counts
        return greedy(scores, prices, allowance, scores.among, settled)


@dataclass(frozen=True)
class Mark(Step):
    """Keep the network as it stands under a name."""

    name: str

    def __call__(self, run: Run) -> dict[str, Any]:
        """Keep it."""
        run.mark(self.name)
        return {"name": self.name, "validation": run.evaluate()}


@dataclass(frozen=True)
class Look(Step):
    """Measure the network on the split that choices go by."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Measure."""
        return {"validation": run.evaluate()}


@dataclass(frozen=True)
class Rewind(Step):
    """Go back to the weights at a point, under the masks of now (or those of then)."""

    to: str = "start"
    masks: bool = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """Go back."""
        run.restore(self.to, masks=self.masks)
        return {"to": self.to}


@dataclass(frozen=True)
class Search(Step):
    """Let a searcher try candidates on forks of the run."""

    searcher: Searcher

    def __call__(self, run: Run) -> dict[str, Any]:
        """Try."""
        return self.searcher(run)


@dataclass(frozen=True)
class Remove(Step):
    """Let a remover take units out until `budget` is met."""

    budget: Budget
    remover: Remover

    def __call__(self, run: Run) -> dict[str, Any]:
        """Take them out.

        Raises:
            BudgetError: the budget is not met, and how near one got.
            ResproutError: what was dead came to life.
        """
        before = run.masks
        facts = self.remover(run, self.budget)
        if (run.masks - before).alive:
            raise ResproutError(f"{self.remover!r} has woken dead weights; a remover takes away")
        self.budget.check(run.model, run.masks)
        return facts | {"died": before.alive - run.masks.alive, "cost": self.budget.cost(run.model, run.masks)}
