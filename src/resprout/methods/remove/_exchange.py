"""What is exchanged in the weights of a layer, a block at a time, and the loss's slope and curvature there.

Not a method: `icbs.py` uses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...core.probe import Probe, share


@dataclass
class Exchange:
    """A weight as it was, and who of it is alive now.

    Attributes:
        weight: before anything was pruned.
        among: bool, who may be alive at all.
        start: bool, who is at first.
        worth: scores.
        frozen: see `Icbs`.
    """

    weight: Tensor
    among: Tensor
    start: Tensor
    worth: Tensor
    frozen: tuple[float, float]
    resting: deque[Tensor] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.mask = self.start.clone()
        self.flat, self.whole, self.scores = self.mask.flatten(), self.weight.flatten(), self.worth.float().flatten()
        self.free = self.among.flatten().clone()
        pruned, kept = (f.nonzero().flatten() for f in (self.free & ~self.flat, self.flat))
        self.free[pruned[self.scores[pruned].argsort()[: int(self.frozen[0] * len(pruned))]]] = False
        self.free[kept[self.scores[kept].argsort(descending=True)[: int(self.frozen[1] * len(kept))]]] = False

    @property
    def now(self) -> Tensor:
        """The weight as it stands, flat."""
        return self.whole * self.flat

    def block(self, size: int, rest: float) -> Tensor:
        """Return the positions of a block, and let them rest afterwards; none where there is nothing to exchange."""
        while self.resting and sum(map(len, self.resting)) > rest * len(self.flat):
            self.resting.popleft()
        free = self.free.clone()
        for each in self.resting:
            free[each] = False
        pruned, kept = ((free & f).nonzero().flatten() for f in (~self.flat, self.flat))
        half = min(size // 2, len(pruned), len(kept))
        best, worst = self.scores[pruned].topk(half).indices, self.scores[kept].topk(half, largest=False).indices
        chosen = torch.cat([pruned[best], kept[worst]])
        self.resting.append(chosen)
        return chosen


def _together(tensors: Mapping[str, Exchange]) -> dict[str, Tensor]:
    return {n: t.now.reshape(t.weight.shape) for n, t in tensors.items()}


@torch.no_grad()
def mean_loss(probe: Probe, data: Sequence[Any], tensors: Mapping[str, Exchange]) -> float:
    weights = _together(tensors)
    losses = torch.stack([probe.loss(batch, weights) for batch in data])
    return float(share(losses.double().mean()))


Found = dict[str, tuple[Tensor, Tensor]]


def fisher(
    probe: Probe, samples: Sequence[Any], tensors: Mapping[str, Exchange], blocks: Mapping[str, Tensor]
) -> Found:
    """Gradient and empirical Fisher, 1/N sum g_i g_i^T, of each block."""
    rows: dict[str, list[Tensor]] = {n: [] for n in blocks}
    for sample in samples:
        weights = _together(tensors)
        leaves = [weights[n].requires_grad_() for n in blocks]
        for (n, block), g in zip(blocks.items(), torch.autograd.grad(probe.loss(sample, weights), leaves), strict=True):
            rows[n].append(g.flatten()[block])
    found = {n: torch.stack(r) for n, r in rows.items()}
    return {n: (share(g.mean(0)), share(g.T @ g / len(g))) for n, g in found.items()}


def exact(probe: Probe, samples: Sequence[Any], tensors: Mapping[str, Exchange], blocks: Mapping[str, Tensor]) -> Found:
    """Gradient and Hessian of each block, by differentiating twice."""
    found: Found = {}
    for name, block in blocks.items():
        gradient, hessian = torch.zeros(len(block)), torch.zeros(len(block), len(block))
        for sample in samples:
            weights = _together(tensors)
            leaf = weights[name].requires_grad_()
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
                (first,) = torch.autograd.grad(probe.loss(sample, weights), leaf, create_graph=True)
                part = first.flatten()[block]
                second = [_again(g, leaf)[block] for g in part]
            gradient = gradient.to(part) + part.detach() / len(samples)
            hessian = hessian.to(part) + torch.stack(second) / len(samples)
        found[name] = share(gradient), share(hessian)
    return found


def _again(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivative by `leaf`, flat; zero where the loss is linear in it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf).flatten()
    return torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten()
