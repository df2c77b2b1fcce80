"""OBSPA: what removing a channel costs its readers once their other inputs have made up for it, W_B [H^-1_BB]^-1 W_B^T.

Wang, Rachwan, Günnemann, Charpentier: "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
arXiv:2403.18955. Its compensation is `recover/obs.py`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...numerics.curvature import curvature, inverse, removal
from ._rows import fill, makers, readers, rows
from ._shares import shares


@dataclass(frozen=True)
class Obspa(Score):
    """The layer-wise second-order cost, summed over a channel's readers and divided by the sum (or mean) of its group.

    A row that no group knows counts with its own energy w H w^T, divided by that of its tensor.
    """

    damping: float = 0.01
    by: Literal["sum", "mean"] = "sum"
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "spa"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the costs, the same for all weights of a row."""
        weights, h = probe.weights(), curvature(probe, probe.names, self.damping)
        inverted = {n: inverse(m) for n, m in h.items()}
        numbers = {n: torch.zeros(len(w)).double() for n, w in rows(probe).items()}
        for name, number in numbers.items():
            w = weights[name].double().reshape(len(h[name]), -1, h[name].shape[1])
            number += shares(((w @ h[name]) * w).sum(2).flatten().cpu(), self.by)
        for group, made in makers(probe):
            cost = torch.zeros(len(group)).double()
            for slot in (s for s in readers(probe, group) if s.parameter in weights):
                kernel = weights[slot.parameter][0, 0].numel()
                blocks = (slot.index[..., None] * kernel + torch.arange(kernel)).flatten(1)
                cost += removal(weights[slot.parameter], inverted[slot.parameter], blocks).cpu()
            if bool(cost.any()):
                numbers[made.parameter][made.index] = shares(cost, self.by)[:, None].expand(made.index.shape)
        return fill(probe, numbers)
