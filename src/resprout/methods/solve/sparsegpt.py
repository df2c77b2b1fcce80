"""SparseGPT: a column at a time, what is cut is made up for by the columns to its right; which are cut is chosen on the way.

Frantar, Alistarh: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023, arXiv:2301.00774
(Algorithm 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Pick, Solver
from ...numerics.curvature import damped, factor

PIECE = 16  # columns whose errors are carried on one by one; to those behind it they go together


@dataclass(frozen=True)
class Sparsegpt(Solver):
    """Runs of `block` columns: the scores w^2 / [H^-1]_jj^2 are those at its beginning. `damping` as of `curvature`."""

    block: int = 128
    damping: float = 0.01
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def prepare(self, gram: Tensor) -> Tensor:
        """Return the upper triangular factor of H^-1; the row of an input that is never read is zero."""
        unread = gram.diagonal() == 0
        return factor(damped(gram[None], self.damping)[0]).masked_fill_(unread[:, None], 0.0)

    @torch.no_grad()
    def __call__(self, weight: Tensor, prepared: Tensor, pick: Pick) -> Tensor:
        """Return the new weight."""
        upper = prepared
        unread = upper.diagonal() == 0
        columns = weight.T.masked_fill(unread[:, None], 0.0)  # a column of the weight is a row here: contiguous
        scale = upper.diagonal().masked_fill(unread, 1.0)
        width = -(-self.block // pick.step) * pick.step
        for first in range(0, len(columns), width):
            part = slice(first, first + width)
            run, inner, own = columns[part], upper[part, part], scale[part]
            stays = pick((run / own[:, None]).square().T, first).T
            errors = torch.empty_like(run)
            for a in range(0, len(run), PIECE):
                b = min(a + PIECE, len(run))
                for j in range(a, b):
                    errors[j] = run[j].masked_fill(stays[j], 0.0) / own[j]
                    run[j:b].addr_(inner[j, j:b], errors[j], alpha=-1)
                run[b:].addmm_(inner[a:b, b:].T, errors[a:b], alpha=-1)
            run.mul_(stays)
            columns[part.stop :].addmm_(upper[part, part.stop :].T, errors, alpha=-1)
        return columns.T.contiguous()
