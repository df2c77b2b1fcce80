"""2SSP: neurons of all MLPs leave by the norm of their activations, then whole attentions by the loss without them.

Sandri, Cunegatti, Iacca: "2SSP: A Two-Stage Framework for Structured Pruning of LLMs", TMLR 2025, arXiv:2501.17771.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Remover, Score
from ...core.masks import Masks
from ...core.roles import making
from ...core.run import Run
from ...core.units import Group, living
from ..score.minitron_width import MinitronWidth
from ._greedy import Candidate, Trials, greedy, inner, layers, left, merged


def attentions(blocks: int, sparsity: float, ratio: float, alpha: float = 1.5) -> int:
    """Return how many attentions leave of so many blocks: B s^(ratio / alpha), rounded; `ratio` is MLP to attention weights."""
    return round(blocks * sparsity ** (ratio / alpha))


def planned_sparsity(run: Run, budget: Budget) -> float:
    """Return the part of what whole layers cost that the budget takes from the dense network, in its own unit."""
    branches = [g for g in run.groups if g.kind == "layer"]
    whole = Masks({n: torch.ones_like(m) for n, m in run.masks.items()})
    none = left(whole, run.groups, merged("all", [Candidate(g.name, {g.name: torch.tensor([0])}) for g in branches]))
    most, least = (budget.share(budget.cost(run.model, masks)) for masks in (whole, none))
    return min(1.0, max(0.0, (most - 1) / max(most - least, 1e-12)))


def ranked(run: Run, groups: list[Group], score: Score) -> dict[str, Tensor]:
    """Return group -> its units, the best first."""
    probe, order = run.probe(), {}
    probe.training = False
    scores = score(probe)
    for group in groups:
        made = next(s for s in making(run.model, group) if s.parameter in scores)
        line = select.dense(scores[made.parameter]).movedim(made.dim, 0).flatten(1).mean(1).cpu()
        order[group.name] = line[made.index].mean(1).argsort(descending=True, stable=True)
    return order


@dataclass(frozen=True)
class TwoSsp(Remover):
    """Stage 1 keeps the same number of neurons in each MLP, stage 2 is greedy over whole attentions.

    The sparsity s of the formula is the part of what the blocks cost that the budget takes away, in the budget's unit. Given
    the number of attentions, each MLP keeps as many neurons as the budget allows: the best by `score`, the mean over samples
    of their norm over tokens. Stage 2 looks at `batches` batches (the paper: at one sample).
    """

    alpha: float = 1.5
    score: Score = MinitronWidth()  # noqa: RUF009
    batches: int | None = 1
    key: ClassVar[str | None] = "two-ssp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ResproutError(f"alpha must be above 0, got {self.alpha:g}")

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take them out; `removed` lists attentions in order, with the loss after each."""
        branches, neurons = [g for g in run.groups if g.kind == "layer"], [g for g, _ in inner(run, "channel")]
        mlps = {layer.name for _, layer in inner(run, "channel")}
        here = [c for c in layers(run) if c.name not in mlps]
        if not neurons or len(mlps) == len(branches):
            raise ResproutError(
                "2SSP needs blocks with an MLP and an attention as layers of their own; see `resprout inspect`"
            )
        if budget.met(budget.cost(run.model, run.masks)):
            return {"attentions": 0, "removed": []}
        sparsity = planned_sparsity(run, budget)
        sizes = {
            g.name: sum(run.masks[n].numel() for n in {s.parameter for s in g.slots} if n in run.masks)
            for g in branches
        }
        mlp = sum(sizes[n] for n in mlps) / len(mlps)
        attention = sum(size for n, size in sizes.items() if n not in mlps) / (len(branches) - len(mlps))
        wished = attentions(len(mlps), sparsity, mlp / attention, self.alpha)
        wished = min(wished, int(1e-9 + sparsity * len(mlps) * (mlp + attention) / attention))
        stay = len(branches) - len(mlps) - wished
        order = ranked(run, neurons, self.score)

        def without(keep: int) -> Candidate:
            return Candidate(f"neurons but {keep}", {n: best[keep:] for n, best in order.items()})

        def planned(keep: int) -> Masks:
            return left(run.masks, run.groups, merged("plan", [without(keep), *here[stay:]]))

        masks = budget.keep(run.model, planned, 1, max(map(len, neurons)))
        keep = max(int(alive.sum()) for alive in living(neurons, masks).values())
        run.set_masks(left(run.masks, run.groups, without(keep)))
        trials = Trials(run, "loss", self.batches)
        removed = greedy(trials, [[c] for c in here], lambda: sum(c.name not in mlps for c in layers(run)) <= stay)
        while keep > 1 and not budget.met(budget.cost(run.model, run.masks)):  # others were planned, which cost more
            keep -= 1
            run.set_masks(left(run.masks, run.groups, without(keep)))
        return trials.findings(sparsity=sparsity, attentions=len(removed), neurons=keep, removed=removed)
