"""OBS: the inputs that a layer keeps make up for those it has lost, by least squares; norms are measured anew.

Wang, Rachwan, Günnemann, Charpentier: "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
arXiv:2403.18955 (OBSPA, which ends there: no training follows). The inputs are those of the dense network.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...core.kinds import Fidelity, Recover, Step
from ...core.masks import Masks
from ...core.norms import recalibrate
from ...core.probe import Probe
from ...core.run import Run
from ...numerics.curvature import curvature, least_squares


@dataclass(frozen=True)
class Obs(Recover):
    """Once after one cut from the dense network. `damping` is the part of the mean of H's diagonal added to it."""

    damping: float = 0.01
    key: ClassVar[str | None] = "spa"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return the one step, which needs no optimizer."""
        return (Compensate(self.damping),)


@dataclass(frozen=True)
class Compensate(Step):
    """Fit what is left of each layer to what the layer of the dense network (the point "dense") puts out."""

    damping: float = 0.01

    def __call__(self, run: Run) -> dict[str, Any]:
        """Fit, and measure the norms' statistics on the probe's batches."""
        data = run.probe().data()
        dense = Probe(run.model, run.masks, data, run.task.loss, run.anchor, training=False).at_anchor()
        fitted = compensate(run.model, run.masks, dense, self.damping)
        recalibrate(run.model, [lambda b=b: run.task.loss(run.model, b) for b in data])
        return {"fitted": list(fitted)}


@torch.no_grad()
def compensate(model: nn.Module, masks: Masks, dense: Probe, damping: float = 0.01) -> tuple[str, ...]:
    """Give the layers of `model` that have lost whole inputs the weights that make up for them best; return which.

    Args:
        model: the cut network, changed in place.
        masks: what is alive in it; inputs that are alive for some outputs only are not made up for.
        dense: a probe of the network before the cut, best in evaluation mode (`training=False`).
        damping: see `curvature`.

    Raises:
        ResproutError: a layer that is neither linear nor a convolution.
    """
    params = dict(model.named_parameters())
    keep = {n: m.any(0) for n, m in masks.items()}
    lost = [n for n, k in keep.items() if bool(k.any()) and not bool(k.all())]
    for name, h in curvature(dense, lost, damping).items() if lost else ():
        best = least_squares(dense.weights()[name], h, keep[name])
        params[name].copy_(best * masks[name])
    return tuple(lost)
