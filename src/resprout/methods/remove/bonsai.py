"""Bonsai: units are worth what random sub-networks with and without them are worth, in forward passes alone.

Dery, Kolawole, Kagy, Smith, Neubig, Talwalkar: "Everybody Prune Now: Structured Pruning of LLMs with only Forward Passes",
arXiv:2402.05406. The regression is solved in closed form here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.granularity import unit_prices
from ...core.kinds import Fidelity, Remover
from ...core.masks import Masks
from ...core.probe import share
from ...core.run import Run
from ...core.units import living, spread
from ..score._activations import moments
from ..score._rows import makers
from ._levels import Site, sites
from ._regression import draw, regress


@dataclass(frozen=True)
class Bonsai(Remover):
    """In each round `part` of every sub-layer's units go, of twice as many that are least active; all others are sure to stay.

    `networks` sub-networks lack half of those, each beside its complement; their perplexity on `batches` batches is regressed, of
    all sub-layers together (`jointly`: the worst go wherever they are) or of each. Of heads `heads` times the part go; less than
    half a unit is none. `strengths` of the pull to the prior, the mean activation, are tried. The last round stops at the budget.
    """

    part: float = 0.1
    networks: int = 200
    batches: int = 4
    jointly: bool = True
    heads: float = 1.0
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    key: ClassVar[str | None] = "bonsai"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 < self.part < 0.5 and self.networks > 1 and self.batches > 0 and self.strengths):
            raise ResproutError(f"part is between 0 and 0.5, of two networks and a batch at least; got {self!r}")

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Cut; `rounds` say how many units are left, and the least and the greatest perplexity of a sub-network."""
        places, rounds = sites(run, budget), []
        while not budget.met(budget.cost(run.model, run.masks)):
            drops, chance, prior = self._competing(run, places)
            if not any(drops):
                break
            masks, perplexity = self._try(run, places, drops, chance, len(rounds))
            gone = self._worst(run, budget, places, drops, self._worth(masks, -perplexity, chance, prior))
            left = _without(run, places, gone)
            if budget.met(budget.cost(run.model, left)):
                count = len(gone)
                left = budget.keep(run.model, lambda keep: _without(run, places, gone[: count - keep]), 0, count)  # noqa: B023
            run.set_masks(left)
            after = sum(int(a.sum()) for a in living([p.group for p in places], left).values())
            facts = {"least": float(perplexity.min()), "greatest": float(perplexity.max())}
            rounds.append({"left": after, "alive": left.alive} | facts)
        budget.check(run.model, run.masks)
        return {"rounds": rounds}

    def _competing(self, run: Run, places: Sequence[Site]) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """How many units of each site go, the chance of each unit (0: it stays), and its prior: its activity over the mean."""
        probe, alive = run.probe(), living([p.group for p in places], run.masks)
        probe.training, probe.groups = False, tuple(p.group for p in places)
        mean, _ = moments(probe, lambda x: x.float().abs().flatten(1))
        activity = {group.name: mean[made.parameter][made.index[:, 0]] for group, made in makers(probe)}
        drops, chances, priors = [], [], []
        for place in places:
            lives, rho = alive[place.group.name], activity[place.group.name]
            count = int(lives.sum())
            part = self.part * (self.heads if place.group.kind == "head" else 1.0)
            drops.append(max(0, min(round(part * count), (count - 1) // 2)))
            may = rho.masked_fill(~lives, torch.inf).argsort(stable=True)[: 2 * drops[-1]]
            top = float(rho[lives].max()) if count else 0.0
            chances.append(torch.zeros_like(rho).index_copy_(0, may, top * (1 + 1e-6) - rho[may] + 1e-30))
            priors.append(rho / max(float(rho[lives].mean()) if count else 1.0, 1e-30))
        return drops, chances, priors

    @torch.no_grad()
    def _try(
        self, run: Run, places: Sequence[Site], drops: Sequence[int], chance: Sequence[Tensor], at: int
    ) -> tuple[Tensor, Tensor]:
        """Return masks of all units (networks, units) and the perplexity of each."""
        probe, generator, masks, found = run.probe(), run.generator("bonsai", at), [], []
        probe.training, weights = False, run.weights()
        for _ in range(math.ceil(self.networks / 2)):
            pairs = [draw(c, k, generator) if k else (c >= 0, c >= 0) for c, k in zip(chance, drops, strict=True)]
            masks += [torch.cat([pair[side] for pair in pairs]) for side in (0, 1)]
        for mask in masks:
            cut = {}
            for place, kept in zip(places, mask.split([len(p.group) for p in places]), strict=True):
                weight = weights[place.reader].detach()
                gates = torch.ones(weight[0].numel(), dtype=weight.dtype, device=weight.device)
                gates[place.blocks[~kept].flatten()] = 0
                cut[place.reader] = weight * gates.view(weight.shape[1:])
            losses = [probe.loss(batch, cut) for batch in probe.data()[: self.batches]]
            found.append(share(torch.stack(losses).double().mean()).exp().cpu())
        return torch.stack(masks), torch.stack(found)

    def _worth(self, masks: Tensor, worth: Tensor, chance: Sequence[Tensor], prior: Sequence[Tensor]) -> Tensor:
        """What each unit that competes is worth, infinite for the others."""
        sizes, beta = [len(c) for c in chance], torch.full((masks.shape[1],), torch.inf, dtype=torch.float64)
        may, at = torch.cat(list(chance)) > 0, torch.arange(masks.shape[1])
        for place in [at] if self.jointly else at.split(sizes):
            columns = place[may[place]]
            if len(columns):
                beta[columns] = regress(masks[:, columns], worth, torch.cat(list(prior))[columns], self.strengths)
        return beta

    def _worst(
        self, run: Run, budget: Budget, places: Sequence[Site], drops: Sequence[int], worth: Tensor
    ) -> list[tuple[int, int]]:
        """Return (site, unit) of those that go in a round, the worst first: as many weights as `drops` of each site have."""
        names = [(i, unit) for i, place in enumerate(places) for unit in range(len(place.group))]
        order = [names[at] for at in worth.argsort(stable=True).tolist() if math.isfinite(worth[at])]
        shapes = {n: tuple(m.shape) for n, m in run.masks.items()}
        prices = budget.prices(run.model, run.masks) or dict.fromkeys(shapes, 1.0)
        each = list(unit_prices(prices, [p.group for p in places], shapes).values())
        goal, paid, chosen = sum(k * p for k, p in zip(drops, each, strict=True)), 0.0, []
        taken = [0] * len(places)
        for i, unit in order:
            if paid < goal * (1 - 1e-9) and (self.jointly or taken[i] < drops[i]):
                taken[i], paid = taken[i] + 1, paid + each[i]
                chosen.append((i, unit))
        return chosen


def _without(run: Run, places: Sequence[Site], gone: Sequence[tuple[int, int]]) -> Masks:
    """The run's masks without some units, (site, unit) each."""
    alive = {p.group.name: torch.ones(len(p.group), dtype=torch.bool) for p in places}
    for i, unit in gone:
        alive[places[i].group.name][unit] = False
    kept = spread([p.group for p in places], alive, {n: m.shape for n, m in run.masks.items()})
    return run.masks & Masks({n: m.to(run.device) for n, m in kept.items()})
