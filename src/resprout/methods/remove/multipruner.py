"""MultiPruner: whole residual branches, then groups of MLP channels, then heads, each time what costs the least loss.

Muñoz, Yuan, Jain: "MultiPruner: Balanced Structure Removal in Foundation Models", arXiv:2501.09949. Its first stage alone is
Zhong, Wan, Chen, Quan, Li: "BlockPruner", arXiv:2406.10594.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Remover
from ...core.roles import making, rows
from ...core.run import Run
from ...core.units import Group, living
from ._greedy import Candidate, Trials, attainable, greedy, inner, layers

PART = 1024 / 11008  # of an MLP of Llama-2-7B, where the paper cuts 1024 channels at a time


def weakest(run: Run, group: Group) -> Tensor:
    """Return the living units of `group` in the order in which they leave: by the L1 norm of the rows that make them."""
    made = [s for s in making(run.model, group) if s.parameter in run.masks]
    norms = rows({n: w.detach() for n, w in run.weights().items()}, made).abs().sum(1).cpu()
    order = norms.argsort(stable=True)
    return order[living([group], run.masks)[group.name][order]]


def tails(run: Run, group: Group, size: int) -> list[Candidate]:
    """Return the weakest units of `group`, so many at a time; one unit at least stays."""
    order = weakest(run, group)
    starts = range(0, len(order) - size, size)
    return [Candidate(f"{group.name} -{at + size}", {group.name: order[at : at + size]}) for at in starts]


@dataclass(frozen=True)
class MultiPruner(Remover):
    """Greedy in three stages, until these shares of what must go are gone; (1, 0, 0) is BlockPruner.

    What must go is the distance from what the network costs to the budget, in the budget's unit. MLPs lose `channels` at a
    time, the weakest first by their L1 norms (default: the part of each MLP that the paper's 1024 are of Llama-2-7B's),
    attentions a head at a time, with shared keys and values all that share them. If a stage runs out, all kinds compete for
    what is left.
    """

    shares: tuple[float, float, float] = (0.44, 0.52, 0.04)
    channels: int | None = None
    batches: int | None = None
    key: ClassVar[str | None] = "multipruner"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) < 0 or not sum(self.shares) > 0:
            raise ResproutError(
                f"shares are those of layers, MLP channels and heads, none below 0, got {self.shares!r}"
            )
        if self.channels is not None and self.channels < 1:
            raise ResproutError(f"channels must be 1 or more, got {self.channels}")

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take them out; `removed` lists them in order, with the loss after each."""
        trials = Trials(run, "loss", self.batches)
        start = budget.share(budget.cost(run.model, run.masks))

        def done(goal: float) -> bool:
            cost = budget.cost(run.model, run.masks)
            return budget.met(cost) or start - budget.share(cost) >= goal * (start - 1) - 1e-9

        def stage(which: int) -> list[list[Candidate]]:
            if which == 0:
                return [[c] for c in layers(run)]
            pairs = [group for group, _ in inner(run, "channel" if which == 1 else "head")]
            sizes = {g.name: self.channels or max(1, round(PART * len(g))) if which == 1 else 1 for g in pairs}
            return [tails(run, g, sizes[g.name]) for g in pairs]

        attainable(run, budget, [c for which in (0, 1, 2) for queue in stage(which) for c in queue])
        removed, goal = [], 0.0
        for which, part in enumerate(self.shares):
            goal += part / sum(self.shares)
            removed += greedy(trials, stage(which), lambda goal=goal: done(goal)) if part else []
        removed += greedy(trials, [q for which in (0, 1, 2) for q in stage(which)], lambda: done(2.0))
        return trials.findings(removed=removed)
