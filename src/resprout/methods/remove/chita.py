"""CHITA: which weights stay, and their new values, from the gradients of many samples; nothing is trained.

Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao, Mazumder: "Fast as CHITA: Neural Network Pruning with Combinatorial
Optimization", ICML 2023, arXiv:2302.14623. Iterative hard thresholding, then a back-solve on its support; in stages it is
their CHITA++. Coordinate descent and the version in blocks are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import select
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Remover
from ...core.masks import Masks
from ...core.probe import Probe
from ...core.run import Run, mix
from ...numerics import fisher
from ..rule._move import weights_only


@dataclass(frozen=True)
class Chita(Remover):
    """Single weights leave and the others make up for them, in `stages` of a constant ratio.

    At each stage `rows` gradients of `size` training samples are taken anew. Of `ridges` (lambda) that one is used whose
    network has the least loss on the run's probe. With `first_order` the slope of the loss counts too.
    """

    stages: int = 5
    rows: int = 256
    size: int = 8
    ridges: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    first_order: bool = False
    key: ClassVar[str | None] = "chita"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if min(self.stages, self.rows, self.size) < 1 or not self.ridges or min(self.ridges) <= 0:
            raise ResproutError("stages, rows and size must be 1 or more, and ridges above 0")

    @torch.no_grad()
    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Remove.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "chita")
        began = run.masks.alive
        end = budget.keep(run.model, _by(run, run.weights()), 0, began).alive
        facts: dict[str, Any] = {"ridges": [], "losses": []}
        for stage in range(1, self.stages + 1):
            keep = round(began * (end / began) ** (stage / self.stages)) if end else 0
            ridge, loss = self._stage(run, keep, budget if stage == self.stages else None, stage)
            facts["ridges"].append(ridge)
            facts["losses"].append(loss)
        return facts

    def _stage(self, run: Run, keep: int, budget: Budget | None, stage: int) -> tuple[float, float]:
        """Come down to `keep` weights, or with a `budget` to the most that it allows; return lambda and the loss."""
        old, device = run.masks, run.device
        line = fisher.flat({n: w.detach() for n, w in run.weights().items()}, old).float().cpu()
        probe = run.probe_with(data=self._data(run, stage), loss=run.task.loss)
        probe.training = False
        rows = fisher.gradient_rows(probe, old)
        slope = rows.sum(0) if self.first_order else None
        look = run.probe("chita")
        look.training = False
        best: tuple[float, float, Masks, dict[str, Tensor]] | None = None
        for ridge in self.ridges:
            strength = ridge * len(rows)
            found, _ = fisher.thresholded(rows, line, min(keep, len(line)), strength, slope)
            worth = torch.where(found != 0, found.abs() + line.abs().max(), line.abs())
            choose = _by(run, fisher.unflat(worth.to(device), old))
            masks = choose(keep) if budget is None else budget.keep(run.model, choose, 0, old.alive)
            solved = fisher.back_solve(rows, line, fisher.flat(masks, old).cpu(), strength, slope)
            values = {n: v.to(run.weights()[n]) for n, v in fisher.unflat(solved.to(device), old).items()}
            loss = _loss(look, values)
            if best is None or loss < best[1]:
                best = ridge, loss, masks, values
        assert best is not None
        run.set_masks(best[2])
        for name, weight in run.weights().items():
            weight.copy_(best[3][name])
        return best[0], best[1]

    def _data(self, run: Run, stage: int) -> list[Any]:
        batches = run.task.batches("train", seed=mix(run.seed, "chita", stage))
        return list(islice((piece for b in batches for piece in fisher.samples(b, self.size)), self.rows))


def _by(run: Run, values: Any) -> Callable[[int], Masks]:
    """Return count -> masks of so many living weights, those of the largest absolute values."""
    sizes = {n: v.detach().abs() for n, v in values.items()}
    return lambda keep: select.top(sizes, keep, run.masks)


def _loss(probe: Probe, values: dict[str, Tensor]) -> float:
    return sum(float(probe.loss(b, values)) for b in probe.data()) / len(probe.data())
