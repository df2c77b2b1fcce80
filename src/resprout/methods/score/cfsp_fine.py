"""CFSP, within a block: an MLP's channel is worth its share of each of its three matrices, times the norm of its activation.

Wang, Ma, Wang, Chen, Shan, Yang, Xu, Liu, Qin: "CFSP: An Efficient Structured Pruning Framework for LLMs with Coarse-to-Fine
Activation Information", COLING 2025, arXiv:2409.13199. As released, each share is of the channel's own sum, so that the weights
cancel and the norm alone ranks: `relative="channel"`. With `relative="both"` shares of the other side's sums are added (as in
RIA, arXiv:2402.10184).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...numerics.curvature import norms
from ._rows import fill, following, makers, owner, readers, rows


@dataclass(frozen=True)
class CfspFine(Score):
    """mean_i [sum over matrices of |w_ij| / sum_i |w_ij|] * |x_j|^c, with w times |x_j|^b where the channel is read."""

    relative: Literal["channel", "both"] = "both"
    b: float = 1.0
    c: float = 1.0
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "cfsp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the products, the same for all weights of a row; 0 where no group holds it."""
        numbers = {n: torch.zeros(len(w), dtype=torch.float64) for n, w in rows(probe).items()}
        weights, found = probe.weights(), list(makers(probe))
        reads = {group: following(probe, made.parameter, readers(probe, group)) for group, made in found}
        for group, read in reads.items():
            if read is None or not isinstance(probe.model.get_submodule(owner(read.parameter)), nn.Linear):
                raise ResproutError(f"cfsp scores what linear layers read; {group.name!r} has none: use another score")
        sizes = norms(probe, [r.parameter for r in reads.values() if r is not None]) if reads else {}
        for group, read in reads.items():
            assert read is not None
            size, worth = sizes[read.parameter][0].double(), torch.zeros(len(group), dtype=torch.float64)
            for slot in (s for s in group.slots if s.parameter in weights):
                table = weights[slot.parameter].abs().double().movedim(slot.dim, 0).flatten(1)
                table = table * (size[:, None] ** self.b if slot is read else 1.0)
                share = table / table.sum(1, keepdim=True).clamp(min=1e-30)
                share = share + table / table.sum(0).clamp(min=1e-30) if self.relative == "both" else share
                worth += share.mean(1).cpu()[slot.index].mean(1)
            worth *= (size**self.c).cpu()[read.index].mean(1)
            for made in (made for other, made in found if other is group):
                numbers[made.parameter][made.index] = worth[:, None].expand(made.index.shape)
        return fill(probe, numbers)
