"""Distil what is within: the hidden states that each block puts out are to be those of the dense network.

Sun, Cheng, Gan, Liu: "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019, arXiv:1908.09355 (unit vectors,
which is "cosine"); Jiao et al.: "TinyBERT", Findings of EMNLP 2020, arXiv:1909.10351 (the squared error).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.blocks import find_blocks
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Objective
from ...core.outputs import outputs, taught
from ...core.run import Run


@dataclass(frozen=True)
class FeatureKd(Objective):
    """The mean over blocks of a distance, times `weight`, and what `beside` makes small (the task's loss, if left out).

    "mse" is in units of the dense states' mean square, so that one weight serves all networks; "cosine" is 1 - cos of what
    the last dimension holds (of images the channels). `blocks` is the path of a list of modules, where it is not found.
    """

    measure: Literal["mse", "cosine"] = "mse"
    weight: float = 1.0
    beside: Objective | None = None
    blocks: str | None = None
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.measure not in ("mse", "cosine"):
            raise ResproutError(f"measure must be 'mse' or 'cosine', got {self.measure!r}")

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss."""
        path = find_blocks(run.model, self.blocks)
        names = [f"{path}.{name}" if path else name for name, _ in run.model.get_submodule(path).named_children()]
        dense = taught(run, batch, names)
        with outputs(run.model, names) as own:
            loss = run.task.loss(model, batch) if self.beside is None else self.beside(run, model, batch)
        apart = sum(self._apart(dense[n].float(), own[n].float()) for n in names) / len(names)
        return loss + self.weight * apart

    def _apart(self, dense: Tensor, own: Tensor) -> Tensor:
        if self.measure == "mse":
            return (own - dense).square().mean() / dense.square().mean().clamp(min=1e-12)
        along = 1 if dense.dim() == 4 else -1
        return (1 - F.cosine_similarity(own, dense, along)).mean()
