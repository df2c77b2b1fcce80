"""SCAP: what linear layers read counts as its usual value where it is near it, so that its weights need not be read.

Chua, Pan, Jain: "Post-Training Statistical Calibration for Higher Activation Sparsity", ENLSP workshop of NeurIPS 2024,
arXiv:2412.07174.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..core.kinds import Fidelity, Method
from .sparsify import Mode, Sparse, sparsify_activations


@dataclass(frozen=True)
class Scap(Method):
    """The same share of zeros for every linear layer; `sparsify_activations` takes one for each, as the paper has it."""

    sparsity: float = 0.5
    mode: Mode = "median"
    key: ClassVar[str | None] = "scap"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, model: nn.Module, data: Sequence[Any]) -> Sparse:
        """Change `model` in place."""
        return sparsify_activations(model, self.sparsity, data=data, mode=self.mode)
