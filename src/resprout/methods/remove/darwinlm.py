"""DarwinLM: levels of heads and MLP channels by second-order removal, and a search whose candidates are trained a little first.

Tang, Sieberling, Kurtic, Shen, Alistarh: "DarwinLM: Evolutionary Structured Pruning of Large Language Models", arXiv:2502.07780;
without training it is EvoPress, arXiv:2410.14649.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity, Recover, Remover
from ...core.run import Run
from ...core.units import living
from ..recover.finetune import Finetune
from ._evolution import Space, Trials, evolve, stages
from ._levels import base, database, settle, sites


@dataclass(frozen=True)
class Darwinlm(Remover):
    """Each layer loses units one by one; what has lost a `levels`-th more is a level, and all are equal at first.

    Of a generation's `offspring`, `survivors` pass each stage: trained for `steps` optimizer steps by `recover`, then judged on
    `shares` of the run's probe batches by the KL divergence from the dense outputs. The steps are the paper's 10k, 50k, 100k and
    200k tokens at 4,096 a step; `steps=(0, 0, 0, 0)` is EvoPress. All of a kind change by whole levels, so that the budget is
    met up to a level of one layer. What is put in force is not trained; the recipe heals it. A layer may lose all units but
    `floor`; a layer without any shrinks only where it is a whole residual branch.
    """

    levels: int = 10
    generations: int = 200
    offspring: int = 16
    swaps: int = 3
    survivors: tuple[int, ...] = (8, 4, 2, 1)
    shares: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2, 1.0)
    steps: tuple[int, ...] = (2, 12, 24, 49)
    recover: Recover = Finetune()  # noqa: RUF009
    top: int = 8192
    damping: float = 0.01
    floor: int = 0
    key: ClassVar[str | None] = "darwinlm"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Search; then put the best in force."""
        places = sites(run, budget)
        before, counts = living([p.group for p in places], run.masks), []
        for place in places:
            gone = len(place.group) - int(before[place.group.name].sum())
            most = max(gone, len(place.group) - self.floor)
            apart = max(1, round((most - gone) / self.levels))
            counts.append(
                [gone + j * apart for j in range((most - gone) // apart)] + [most]
            )  # the last is the longest step
        start = base(run, budget, places, counts)
        levels = database(run.fork(), places, counts, [len(p.group) for p in places], self.damping)
        low = [0] * len(places)
        trials = Trials(run, places, levels, low, self.top, self.recover)
        space = Space(low, [len(c) - 1 for c in counts], [p.kind for p in places])
        plan, draw = stages(self.survivors, self.shares, self.steps), run.generator("darwinlm")
        best, history = evolve(tuple(start), space, trials, plan, self.generations, self.offspring, self.swaps, draw)
        settle(run, places, trials.chosen(best))
        names = [p.group.name for p in places]
        found = {"start": start, "level": best, "gone": [c[i] for c, i in zip(counts, best, strict=True)]}
        return {what: dict(zip(names, numbers, strict=True)) for what, numbers in found.items()} | {"kl": history}
