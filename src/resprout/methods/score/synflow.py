"""SynFlow: the flow through a weight, |dR/dw * w|; R sums the outputs of the network of |weights| for ones.

Tanaka, Kunin, Yamins, Ganguli: "Pruning neural networks without any data by iteratively conserving synaptic flow",
NeurIPS 2020, arXiv:2006.05467.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.masks import Masks
from ...core.probe import Probe


@dataclass(frozen=True)
class Synflow(Score):
    """How many weights fell before this one as SynFlow went down to the density `down_to` in exponential rounds.

    Any cut can be made from that order. Dead weights carry no flow and tie at the bottom. Beyond 2^24 weights some tie.
    """

    rounds: int = 100
    down_to: float = 1e-3
    shape: tuple[int, ...] | None = None  # of one input; default: that of the first batch
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, select.Score]:
        """Return the order of falling."""
        shape, alive = self.shape or tuple(probe.input_shape()[1:]), probe.masks
        probe = Probe(probe.model, alive, training=False)  # flow is not conserved by norms that look at the batch
        order = {n: torch.zeros(m.shape, device=m.device) for n, m in alive.items()}
        total, fell = alive.alive, 0
        for k in range(1, self.rounds + 2):  # the last one ranks those that are left
            keep = 0 if k > self.rounds else round(total * self.down_to ** (k / self.rounds))
            survivors = select.top(flows := flow(probe, alive, shape), keep, alive)
            fallen = alive - survivors
            rank = torch.cat([flows[n][m] for n, m in fallen.items()]).argsort(stable=True).argsort() + fell + 1
            for (n, m), part in zip(fallen.items(), rank.split(list(fallen.counts.values())), strict=True):
                order[n][m] = part.float()
            alive, fell = survivors, total - keep
        return {**order}


def flow(probe: Probe, alive: Masks, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return |dR/dw * w| / R, in float64 since R grows with depth; what adds is zero, lest flow begins midway."""
    state = [*probe.model.named_parameters(), *probe.model.named_buffers()]
    tensors = {n: t.detach().double().abs() for n, t in state if t.is_floating_point()}
    tensors |= {n: torch.zeros_like(t) for n, t in tensors.items() if n.endswith(("bias", "running_mean"))}
    weights = {n: (tensors[n] * m).requires_grad_() for n, m in alive.items()}
    ones = torch.ones(1, *shape, dtype=torch.float64, device=next(iter(weights.values())).device)
    with torch.enable_grad():
        whole = probe.call(tensors | weights, ones).sum()
        share = whole / whole.detach().clamp_min(1e-300)
        grads = torch.autograd.grad(share, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {n: g * weights[n].detach() for n, g in zip(weights, grads, strict=True)}
