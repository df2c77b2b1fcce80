"""K-prune: sub-layer by sub-layer from the bottom, units go that carry little knowledge, and what stays is fitted anew.

Park, Choi, Kang: "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models", ICLR 2024, arXiv:2308.03449.
A unit's knowledge: how much the prediction's divergence from the dense network's changes with it, and what it adds to the hidden
states. Before anything is cut that divergence is flat, so that the first sub-layer goes by the hidden states alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.budget import Budget
from ...core.choose import best
from ...core.granularity import unit_prices
from ...core.kinds import Fidelity, Remover, Scores
from ...core.masks import Masks
from ...core.outputs import inputs, outputs, taught
from ...core.probe import share
from ...core.run import Run
from ...core.units import living, spread
from ...numerics.distance import kl
from ..allocate.global_ import Global
from ._levels import Site, sites
from ._sums import Equations, norms_behind

Knowledge = dict[str, Tensor]  # by the weight that reads the units: one number per column


@dataclass(frozen=True)
class KPrune(Remover):
    """Score of a unit: (knowledge of the prediction + `rep` * that of the hidden states) / its price, of heads times `heads`.

    At each sub-layer all that are not yet cut compete for what is left of the budget, and only this one is cut. Then the layer
    that reads its units is fitted (`refit`) so that the sum behind it comes nearest to the dense network's. The price is in
    weights, or in what the budget counts. For heads and MLPs that add to one stream of hidden states, with norms in it.
    """

    rep: float = 1e-5
    heads: float = 64.0
    temperature: float = 2.0
    refit: bool = True
    floor: int = 1
    key: ClassVar[str | None] = "k-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Cut; `sublayers` say what stays of each, and what its layer then misses of the sum wanted, before the fit and after."""
        order = {n: i for i, n in enumerate(run.masks)}
        left = sorted(sites(run, budget), key=lambda s: order[s.reader])
        left = [s for s in left if isinstance(run.model.get_submodule(_layer(s)), nn.Linear)]
        behind, found = norms_behind(run.probe(), [_layer(s) for s in left]), []
        while left:
            target, wanted = left[0], behind.get(_layer(left[0]))
            knowledge, equations = self._look(run, left, wanted)
            run.set_masks(_only(run, target, self._choose(run, budget, left, knowledge)))
            missed = equations.missed(run.weights()[target.reader])
            errors = equations.solve(run.masks[target.reader]) if self.refit else (missed, missed)
            alive = int(living([target.group], run.masks)[target.group.name].sum())
            found.append({"reads": target.reader, "left": alive, "missed": errors})
            left.pop(0)
        return {"sublayers": found}

    def _choose(self, run: Run, budget: Budget, left: Sequence[Site], knowledge: Knowledge) -> Masks:
        """The masks that the budget allows if all of `left` are cut by what is known of them."""
        groups, shapes = [site.group for site in left], {n: tuple(m.shape) for n, m in run.masks.items()}
        prices = unit_prices(budget.prices(run.model, run.masks) or dict.fromkeys(shapes, 1.0), groups, shapes)
        worth = {}
        for site in left:
            weight = self.heads if site.group.kind == "head" else 1.0
            worth[site.group.name] = weight * knowledge[site.reader][site.blocks].mean(1) / prices[site.group.name]
        alive = Masks(living(groups, run.masks))
        scale = max(float(w.abs().max()) for w in worth.values()) or 1.0
        scores = Scores({n: (w / scale).float() for n, w in worth.items()}, alive)

        def choose(keep: int) -> Masks:
            chosen = spread(groups, best(scores, keep, Global(), self.floor, 1.0, None), shapes)
            return run.masks & Masks({n: m.to(run.device) for n, m in chosen.items()})

        return budget.keep(run.model, choose, sum(min(self.floor, c) for c in alive.counts.values()), alive.alive)

    def _look(self, run: Run, left: Sequence[Site], norm: str | None) -> tuple[Knowledge, Equations]:
        """One pass over the data: the knowledge of all units of `left`, and the equations of the layer that reads the first."""
        probe, reader, names = run.probe(), _layer(left[0]), [norm] if norm else []
        probe.training, data = False, probe.data()
        equations = Equations(run.model.get_submodule(reader))  # pyright: ignore[reportArgumentType]
        knowledge: Knowledge = {}
        for batch in data:
            with inputs(run.model, names) as dense:
                taught_out = taught(run, batch, ["", reader])
            weights = {s.reader: run.weights()[s.reader].detach().clone().requires_grad_() for s in left}
            with (
                torch.enable_grad(),
                outputs(run.model, ["", reader]) as out,
                inputs(run.model, [_layer(s) for s in left] + names) as read,
            ):
                probe.loss(batch, weights)
                apart = kl(taught_out[""], out[""], self.temperature) * self.temperature**2
                slopes = torch.autograd.grad(apart, list(weights.values()))
            for site, slope in zip(left, slopes, strict=True):
                w, x = weights[site.reader].detach().double(), read[_layer(site)].detach().double().flatten(0, -2)
                gate = (w * slope).sum(0)  # the slope of a factor before the column
                each = gate.square() / 2 + self.rep * x.square().mean(0) * w.square().mean(0)
                knowledge[site.reader] = knowledge.get(site.reader, 0) + share(each).cpu() / len(data)
            wanted = dense[norm] - read[norm] + out[reader] if norm else taught_out[reader]
            equations.add(read[reader], wanted)
        return knowledge, equations


def _layer(site: Site) -> str:
    return site.reader.rpartition(".")[0]


def _only(run: Run, site: Site, masks: Masks) -> Masks:
    """The run's masks with the units of one site cut as in `masks`."""
    kept = spread([site.group], living([site.group], masks), {n: m.shape for n, m in run.masks.items()})
    return run.masks & Masks({n: m.to(run.device) for n, m in kept.items()})
