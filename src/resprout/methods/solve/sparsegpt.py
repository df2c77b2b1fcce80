"""SparseGPT: a column at a time, what is cut is made up for by the columns to its right; which are cut is chosen on the way.

Frantar, Alistarh: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023, arXiv:2301.00774
(Algorithm 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.curvature import damped, factor
from ...core.kinds import Fidelity, Pick, Solver


@dataclass(frozen=True)
class Sparsegpt(Solver):
    """Runs of `block` columns: the scores w^2 / [H^-1]_jj^2 are those at its beginning. `damping` as of `curvature`."""

    block: int = 128
    damping: float = 0.01
    fidelity: ClassVar[Fidelity] = "identity-checked"

    @torch.no_grad()
    def __call__(self, weight: Tensor, gram: Tensor, pick: Pick) -> Tensor:
        """Return the new weight."""
        unread = gram.diagonal() == 0
        w = weight.masked_fill(unread, 0.0)
        upper = factor(damped(gram[None], self.damping)[0])
        width = -(-self.block // pick.step) * pick.step
        for first in range(0, w.shape[1], width):
            part = slice(first, first + width)
            run, inner = w[:, part], upper[part, part]
            stays = pick((run / inner.diagonal()).square(), first)
            errors = torch.zeros_like(run)
            for j in range(run.shape[1]):
                errors[:, j] = run[:, j].masked_fill(stays[:, j], 0.0) / inner[j, j]
                run[:, j:].addr_(errors[:, j], inner[j, j:], alpha=-1)
            run.mul_(stays)
            w[:, part.stop :].addmm_(errors, upper[part, part.stop :], alpha=-1)
        return w
