"""Final latents: from the same noise, what the network makes in all its moves is to be what the dense network makes.

Zhang, Jin, Zhang, Wang, Chen: "Effortless Efficiency: Low-Cost Pruning of Diffusion Models", arXiv:2412.02852 (EcoDiff; the
end-to-end objective with gradient checkpointing over time steps).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Objective
from ...core.modes import evaluating
from ...core.part import steady
from ...core.run import Run
from ...core.sampled import Sampled, sample


@dataclass(frozen=True)
class FinalLatents(Objective):
    """The mean over samples of | z - z' |, z' of the dense network, divided by the root of the numbers in one sample.

    So that one penalty serves latents of all sizes: the paper's norm is not divided. Nothing is compared on the way.
    """

    key: ClassVar[str | None] = "ecodiff"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss.

        Raises:
            ResproutError: a task that makes no samples, or no dense network is known.
        """
        task = run.task
        if not isinstance(task, Sampled):
            raise ResproutError(f"final latents are those of a task that makes samples (core.sampled), not of {task!r}")
        if run.anchor is None:
            raise ResproutError('the teacher is the dense network: mark it first, run.do(Mark("dense"))')
        dense = run.tensors_at("dense")
        with torch.no_grad(), evaluating(run.model):
            want = sample(task, lambda z: torch.func.functional_call(run.model, dense, (z,)), batch, keep=True)
        apart = (sample(task, steady(model), batch) - want).flatten(1).norm(dim=1)
        return apart.mean() / want[0].numel() ** 0.5
