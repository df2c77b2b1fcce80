"""LRP: how much of the decision for the true class passes through a channel, by layer-wise relevance propagation.

Yeom, Seegerer, Lapuschkin, Binder, Wiedemann, Müller, Samek: "Pruning by Explaining: A Novel Criterion for Deep Neural Network
Pruning", Pattern Recognition 2021, arXiv:1912.08881 (ten samples of each class are enough, it says).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe, share
from ._relevance import relevance
from ._rows import fill, owner, rows


@dataclass(frozen=True)
class Lrp(Score):
    """|R| summed over samples and positions, as a share of its layer. The rule is z+, or alpha-beta with beta = `alpha` - 1.

    Batches must be (inputs, labels); the first layer's inputs may be of either sign.
    """

    alpha: float = 1.0
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "lrp-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not self.alpha >= 1:
            raise ResproutError(f"alpha must be 1 or more, got {self.alpha:g}")

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the shares, the same for all weights of a row."""
        modules = dict(probe.model.named_modules())
        total = {n: torch.zeros(len(r), dtype=torch.float64, device=r.device) for n, r in rows(probe).items()}

        def look(name: str, found: Tensor) -> None:
            dim = -1 if isinstance(modules[owner(name)], nn.Linear) else 1
            total[name] += found.detach().double().abs().movedim(dim, 0).flatten(1).sum(1)

        relevance(probe, look, self.alpha)
        whole = {n: share(t) for n, t in total.items()}
        return fill(probe, {n: t / t.sum().clamp(min=1e-300) for n, t in whole.items()})
