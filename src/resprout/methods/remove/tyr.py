"""Týr: levels of heads and MLP channels by second-order removal, and a search for which layer has which, coarse to fine.

Li, Xu, Li, Liu, Yin, Li, Barsoum: "Týr-the-Pruner: Structural Pruning LLMs via Global Sparsity Distribution Optimization",
NeurIPS 2025, arXiv:2503.09657; the search is EvoPress, arXiv:2410.14649.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity, Remover
from ...core.run import Run
from ...core.units import living
from ._evolution import Space, Trials, evolve, stages
from ._levels import base, database, settle, sites


@dataclass(frozen=True)
class Tyr(Remover):
    """From the same sparsity everywhere, that which meets the budget: `levels` around it, `spacing` of a layer's units apart.

    A generation's `offspring` are judged on `shares` of the run's probe batches by the KL divergence from the dense outputs, and
    `survivors` of each judgement go on. Each of `iterations` makes the levels anew around what was found, half as far apart;
    layers stand for their median level meanwhile. Heads leave after one look at the costs, MLP channels after `rounds`. Unlike
    the paper's code one pass makes all levels of a layer, so that they nest; the paper calibrates on 4M tokens, this on the probe
    batches. A layer may lose all units but `floor`; a layer without any shrinks only where it is a whole residual branch.
    """

    levels: int = 9
    spacing: float = 0.125
    iterations: int = 4
    generations: int = 50
    offspring: int = 128
    swaps: int = 4
    survivors: tuple[int, ...] = (16, 4, 1)
    shares: tuple[float, ...] = (1 / 64, 1 / 8, 1.0)
    top: int = 8192
    rounds: int = 16
    first_order: bool = True
    damping: float = 0.01
    floor: int = 0
    key: ClassVar[str | None] = "tyr"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Search; then put the best in force."""
        places, draw = sites(run, budget), run.generator("tyr")
        before, sizes = living([p.group for p in places], run.masks), [len(p.group) for p in places]
        gone = [n - int(before[p.group.name].sum()) for p, n in zip(places, sizes, strict=True)]
        units = [range(g, max(g, n - self.floor) + 1) for g, n in zip(gone, sizes, strict=True)]
        centre = [u[i] for u, i in zip(units, base(run, budget, places, units), strict=True)]
        rounds = [1 if p.group.kind == "head" else self.rounds for p in places]
        start, history, chosen = list(centre), [], []
        for iteration in range(self.iterations):
            apart = [max(1, round(self.spacing / 2**iteration * n)) for n in sizes]
            most = self.levels // 2
            low = [-min(most, (c - g) // a) for c, g, a in zip(centre, gone, apart, strict=True)]
            high = [min(most, (u[-1] - c) // a) for c, u, a in zip(centre, units, apart, strict=True)]
            counts = [
                [c + j * a for j in range(lo, hi + 1)] for c, a, lo, hi in zip(centre, apart, low, high, strict=True)
            ]
            given = [sorted({g, *c}) for g, c in zip(gone, counts, strict=True)]
            made = database(run.fork(), places, given, rounds, self.damping, self.first_order, centre)
            levels = [[lv for lv in ls if lv.gone in c] for ls, c in zip(made, counts, strict=True)]
            trials, space = Trials(run, places, levels, low, self.top), Space(low, high, [p.kind for p in places])
            plan = stages(self.survivors, self.shares)
            parent = (0,) * len(places)
            best, found = evolve(parent, space, trials, plan, self.generations, self.offspring, self.swaps, draw)
            history.append(found)
            chosen = trials.chosen(best)
            centre = [lv.gone for lv in chosen]
            run.report("search", {"step": iteration + 1, "steps": self.iterations, "kl": found[-1] if found else None})
        settle(run, places, chosen)
        names = [p.group.name for p in places]
        return {
            "start": dict(zip(names, start, strict=True)),
            "gone": dict(zip(names, centre, strict=True)),
            "kl": history,
        }
