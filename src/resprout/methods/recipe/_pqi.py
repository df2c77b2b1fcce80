"""Cutting as many weights of each scope as the PQ index says may go, as a step; not a method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.granularity import Weight
from ...core.kinds import Fidelity, Score, Step
from ...core.masks import Masks
from ...core.probe import Probe
from ...core.run import Run
from ...core.steps import chooser
from ...evaluate.sparsity_index import may_go, pq_index
from ..allocate.global_ import Global

SCOPES = ("global", "layer", "neuron")


@dataclass(frozen=True)
class Criterion:
    """How many of a scope's living weights go: the fields are those of `sparsity_index.may_go`.

    A scope is the whole network, a tensor, or a neuron: what makes one output (a row of a matrix, a filter).
    """

    scope: str = "global"
    p: float = 0.5
    q: float = 1.0
    eta: float = 0.0
    gamma: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ResproutError(f"scope must be 'global', 'layer' or 'neuron', got {self.scope!r}")
        may_go(torch.ones(1), *self.numbers)  # complains of the rest

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        """Its numbers."""
        return self.p, self.q, self.eta, self.gamma, self.beta

    def turns(self, weights: Mapping[str, Tensor], masks: Masks) -> tuple[dict[str, Tensor], int]:
        """Return when each living weight's turn to go comes, and how many may go now.

        Turns are positions, from the smallest magnitude of a scope, over the number of that scope's weights that may go: those
        up to 1 go now. Cut in the order of turns, all scopes come to their numbers together.
        """
        turns, count = {n: torch.zeros(w.shape) for n, w in weights.items()}, 0
        for names, places in self._scopes(masks):
            flat = torch.cat([weights[n].flatten()[at].cpu() for n, at in zip(names, places, strict=True)])
            go = may_go(flat, *self.numbers)
            turn = torch.empty(len(flat))
            turn[flat.abs().argsort(stable=True)] = torch.arange(1.0, len(flat) + 1) / max(go, 1 / len(flat))
            count += go
            for n, at, part in zip(names, places, turn.split([len(at) for at in places]), strict=True):
                turns[n].view(-1)[at.cpu()] = part
        return turns, count

    def _scopes(self, masks: Masks) -> Iterator[tuple[list[str], list[Tensor]]]:
        """The tensors of each scope that has living weights, and these weights' flat positions."""
        if self.scope == "global":
            yield list(masks), [m.flatten().nonzero()[:, 0] for m in masks.values()]
            return
        for name, mask in masks.items():
            rows = len(mask) if self.scope == "neuron" else 1
            width = mask.numel() // max(rows, 1)
            for i, row in enumerate(mask.reshape(rows, width)):
                if len(at := row.nonzero()[:, 0]):
                    yield [name], [at + i * width]


@dataclass(frozen=True, eq=False)
class Taken(Score):
    """A score that has been taken."""

    scores: Mapping[str, Tensor]
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> Mapping[str, Tensor]:
        """Return it, where the network is."""
        return {n: s.to(probe.masks[n].device) for n, s in self.scores.items()}


@dataclass(frozen=True)
class Adapt(Step):
    """Cut what the criterion lets go, but no more than `budget` (if any) asks for; `whole` goes on until it is met.

    With `try_only` nothing changes.
    """

    criterion: Criterion
    budget: Budget | None
    floor: int = 0
    whole: bool = False
    try_only: bool = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """Cut; the facts are the PQ index of all living weights and of each tensor's, what may go, and if the budget is met.

        Raises:
            BudgetError: `whole`, and the budget cannot be met.
            ResproutError: a run whose units are not weights.
        """
        if run.granularity != Weight():
            raise ResproutError("the PQ index counts single weights: sap needs granularity='weight'")
        weights, norms = run.weights(), (self.criterion.p, self.criterion.q)
        living = {n: w.detach()[run.masks[n]].cpu() for n, w in weights.items() if run.masks.counts[n]}
        indices = {n: pq_index(w, *norms) for n, w in living.items()}
        turns, go = self.criterion.turns({n: w.detach() for n, w in weights.items()}, run.masks)
        facts = {"index": pq_index(torch.cat(list(living.values())), *norms), "indices": indices, "may_go": go}
        if self.try_only:
            return facts
        choose = chooser(run.probe_with(), Taken(turns), Global(), self.floor)
        least = sum(min(self.floor, count) for count in run.masks.counts.values())
        keep = least if self.whole else max(least, run.masks.alive - go)
        masks = choose(keep)
        met = self.budget is not None and self.budget.met(self.budget.cost(run.model, masks))
        if self.budget is not None and (met or self.whole):
            masks, met = self.budget.keep(run.model, choose, keep, run.masks.alive), True
        return facts | {"met": met} | run.set_masks(masks)
