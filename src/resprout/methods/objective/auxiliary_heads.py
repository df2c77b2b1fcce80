"""Auxiliary heads: the task's own loss, and that of every head on the way that tells the class from what it reads.

Lee, Xie, Gallagher, Zhang, Tu: "Deeply-Supervised Nets", AISTATS 2015, arXiv:1409.5185; with inputs that are cut off from the
gradient, as in Bergner, Lippert, Mahendran, CVPR 2025, arXiv:2412.00965 (the token pruner `cropr`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Objective
from ...core.outputs import outputs
from ...core.run import Run


@dataclass(frozen=True)
class AuxiliaryHeads(Objective):
    """Loss + `weight` times the sum of the cross-entropies of all modules that have `auxiliary` set."""

    weight: float = 1.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum.

        Raises:
            ResproutError: no such head, or batches that are not (inputs, labels).
        """
        names = [n for n, m in run.model.named_modules() if getattr(m, "auxiliary", False)]
        if not names or not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ResproutError(
                "auxiliary_heads needs heads (modules with `auxiliary` set) and batches (inputs, labels)"
            )
        with outputs(run.model, names) as said:
            loss = run.task.loss(model, batch)
        return loss + self.weight * sum(F.cross_entropy(said[n].float(), batch[1]) for n in names)
