"""Distortion: how far the network's outputs move when one layer alone is cut, at several densities.

Xu, Wang, Geng, Lin, Wu, Li, Lin: "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks", ICCV
2023, arXiv:2308.10438 (a hundred even densities; what several layers move adds up to first order).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import select
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Searcher
from ...core.masks import Masks
from ...core.outputs import outputs
from ...core.run import Run

LEVELS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Distortion(Searcher):
    """Findings: "tables", weight -> distortion at each of `levels`: the mean over samples of |f(x) - f_cut(x)|^2.

    Cut by magnitude, among what is alive, in evaluation mode, on `batches` of the run's probe. With `worst` the largest over
    the samples instead.
    """

    levels: tuple[float, ...] = LEVELS
    batches: int = 2
    worst: bool = False
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if (
            not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or not 0 <= self.levels[0] <= self.levels[-1] <= 1
        ):
            raise ResproutError(f"levels are densities in [0, 1] that rise, got {self.levels}")

    @torch.no_grad()
    def __call__(self, run: Run) -> dict[str, Any]:
        """Measure."""
        probe = run.probe("distortion")
        probe.training = False
        data = probe.data()[: self.batches]

        def put_out(given: dict[str, Tensor] | None = None) -> list[Tensor]:
            found = []
            with outputs(run.model) as seen:
                for batch in data:
                    probe.loss(batch, given)
                    found.append(seen[""].flatten(1).double())
            return found

        reference = put_out()
        samples = sum(map(len, reference))
        tables: dict[str, list[float]] = {}
        for i, (name, weight) in enumerate(probe.weights().items()):
            run.report("search", {"step": i + 1, "steps": len(run.masks), "layer": name})
            row, alive = [], Masks({name: run.masks[name]})
            for level in self.levels:
                keep = min(round(level * weight.numel()), alive.alive)
                if keep == alive.alive:
                    row.append(0.0)
                    continue
                mask = select.top({name: weight.abs()}, keep, alive)[name]
                off = torch.cat(
                    [(a - b).square().sum(1) for a, b in zip(put_out({name: weight * mask}), reference, strict=True)]
                )
                row.append(float(off.max()) if self.worst else float(off.mean()))
            tables[name] = row
        return {"levels": list(self.levels), "tables": tables, "samples": samples}
