"""GraNd: the norm of the gradient that a sample gives the whole network.

Paul, Ganguli, Dziugaite: "Deep Learning on a Data Diet: Finding Important Examples Early in Training", NeurIPS 2021,
arXiv:2107.07075 (definition 2.1).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.kinds import Fidelity
from ..core.modes import evaluating
from ..core.probe import LossOf
from ._kind import SampleScore, Seen
from .subset import shown


@dataclass(frozen=True)
class Grand(SampleScore):
    """| gradient of the loss of one sample |, in evaluation mode; `chunk` samples are differentiated at a time."""

    chunk: int = 64
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, seen: Seen) -> Tensor:
        """Return the norms."""
        model = seen.model
        params = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
        buffers = {f"model.{n}": b.detach() for n, b in model.named_buffers()}
        net, device = LossOf(model, seen.task.loss), next(model.parameters()).device

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return torch.func.functional_call(net, {**weights, **buffers}, ((x[None], y[None]),))

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0), chunk_size=self.chunk, randomness="same")
        found = []
        with evaluating(model):
            for x, y in shown(seen.task).batches("validation"):
                with sdpa_kernel(SDPBackend.MATH):  # the only one that is differentiated sample by sample at once
                    each = gradients(params, x.to(device), y.to(device)).values()
                found.append(sum(g.flatten(1).double().square().sum(1) for g in each))
        return torch.cat(found).sqrt().cpu()
