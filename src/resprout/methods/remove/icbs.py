"""iCBS: weights of a layer change places, a block at a time: those that the loss misses least are pruned, by a quadratic of it.

Rosenberg, Brubaker, Schuetz, Zhu, Kadıoğlu, Borujeni, Katzgraber: "Scalable iterative pruning of large language and vision models
using block coordinate descent", 2024, arXiv:2411.17796.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.granularity import Granularity, Row, Weight
from ...core.kinds import Allocation, Fidelity, Remover, Score
from ...core.masks import Masks
from ...core.probe import to_device
from ...core.run import Run
from ...core.steps import chooser
from ..allocate.uniform import Uniform
from ..score.wanda import Wanda
from ._evolution import split
from ._exchange import Exchange, exact, fisher, mean_loss
from ._qubo import energy, quadratic, solve


@dataclass(frozen=True)
class Icbs(Remover):
    """Begins with masks by `score` within `granularity`; of weights that stay, the values stay, and each tensor's count.

    Each of `steps` takes `at_once` tensors (the paper: one), and of each a block: of the pruned those of highest, of the kept
    those of lowest score, half and half. Pruned again is who changes the loss least by gradient and curvature (the empirical
    Fisher of single samples of the probe batches, or "exact"). `frozen` are the shares of the pruned with the lowest and of the
    kept with the highest scores that never change; what was in a block rests while no more than `rest` of its tensor does. The
    best masks by the loss on other probe batches, looked at `every` so many steps, are put in force.
    """

    score: Score = Wanda()  # noqa: RUF009
    granularity: Granularity = Row()  # noqa: RUF009
    allocate: Allocation = Uniform()  # noqa: RUF009
    steps: int = 1000
    block: int = 128
    at_once: int = 1
    order: Literal["cycle", "random"] = "cycle"
    curvature: Literal["fisher", "exact"] = "fisher"
    frozen: tuple[float, float] = (0.0, 0.0)
    rest: float = 0.25
    steer: float = 1.0
    ridge: float = 0.0
    negative: bool = True
    every: int = 10
    key: ClassVar[str | None] = "icbs"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Descend; then put the best masks in force."""
        if not isinstance(self.granularity, Row | Weight):
            raise ResproutError(
                f"icbs moves single weights: granularity must be Weight() or Row(), got {self.granularity!r}"
            )
        fork = run.fork()
        fork.model.eval()
        probe, prices = fork.probe("icbs"), budget.prices(run.model, run.masks)
        probe.training = False
        choose = chooser(probe, self.score, self.allocate, 0, prices, self.granularity)
        start = budget.keep(run.model, choose, 0, run.masks.alive)
        worth = self.score(probe)
        tensors = {
            n: Exchange(w, run.masks[n], start[n], select.dense(worth[n]), self.frozen)
            for n, w in probe.weights().items()
        }
        data = [to_device(b, run.device) for b in probe.data()]
        samples = data if self.curvature == "exact" else [row for batch in data for row in split(batch)]
        other = [to_device(b, run.device) for b in fork.probe("icbs, other").data()]
        draw = run.generator("icbs")
        chance = np.random.default_rng(int(torch.randint(2**62, (), generator=draw)))
        best, losses = start, [mean_loss(probe, other, tensors)]
        for step in range(self.steps):
            blocks = {
                n: b
                for n in self._names(list(tensors), step, draw)
                if len(b := tensors[n].block(self.block, self.rest))
            }
            found = (fisher if self.curvature == "fisher" else exact)(probe, samples, tensors, blocks)
            for name, (gradient, hessian) in found.items():
                self._improve(tensors[name], blocks[name], gradient, hessian, chance)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                losses.append(mean_loss(probe, other, tensors))
                if losses[-1] < min(losses[:-1]):
                    best = Masks({n: t.mask.clone() for n, t in tensors.items()})
                run.report("search", {"step": step + 1, "steps": self.steps, "loss": losses[-1]})
        run.set_masks(best)
        return {"loss": losses, "moved": (start - best).alive}

    def _names(self, names: list[str], step: int, draw: torch.Generator) -> list[str]:
        if self.order == "random":
            return [names[i] for i in torch.randperm(len(names), generator=draw)[: self.at_once].tolist()]
        return [names[(step * self.at_once + i) % len(names)] for i in range(min(self.at_once, len(names)))]

    def _improve(
        self, tensor: Exchange, block: Tensor, gradient: Tensor, hessian: Tensor, chance: np.random.Generator
    ) -> None:
        now, whole, g, h = (
            t.double().cpu().numpy() for t in (tensor.now[block], tensor.whole[block], gradient, hessian)
        )
        q, _ = quadratic(now, whole, g, h, self.steer, self.ridge, self.negative)
        before = (~tensor.flat[block]).double().cpu().numpy()
        after = solve(q, before, chance)
        if energy(q, after) < energy(q, before):
            tensor.flat[block] = torch.from_numpy(after == 0).to(block.device)
