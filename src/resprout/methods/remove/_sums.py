"""The sums behind layers: what a layer should add so that the hidden states come nearest to the dense network's; not a method.

Park, Choi, Kang: "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models", ICLR 2024, arXiv:2308.03449.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.probe import Probe, share

CUT = 1e-9  # of the largest eigenvalue: directions in which the inputs vary less say nothing


def norms_behind(probe: Probe, layers: Sequence[str]) -> dict[str, str]:
    """Return layer -> the norm that runs next, whose input is the sum that the layer adds to (before or behind a block)."""
    norms = [n for n, m in probe.model.named_modules() if "Norm" in type(m).__name__ and not list(m.children())]
    calls: list[str] = []

    def hook(name: str) -> Any:
        return lambda module, args: calls.append(name)

    handles = [probe.model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in (*norms, *layers)]
    try:
        with torch.no_grad():
            probe.loss(probe.data()[0])
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for at, name in enumerate(calls):
        behind = next((n for n in calls[at + 1 :] if n not in layers), None)
        if name in layers and behind is not None:
            found[name] = behind
    return found


class Equations:
    """X^T X and X^T Y of what a linear layer reads and what it should put out, in float64, summed over batches."""

    def __init__(self, layer: nn.Linear):
        width, out, device = layer.in_features, layer.out_features, layer.weight.device
        self.layer, self.square = layer, 0.0
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.cross = torch.zeros(width, out, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in a batch; the layer's bias stays and is no part of what is fitted."""
        rows, wanted = x.detach().double().flatten(0, -2), y.detach().double().flatten(0, -2)
        if self.layer.bias is not None:
            wanted = wanted - self.layer.bias.detach().double()
        self.gram += share(rows.T @ rows)
        self.cross += share(rows.T @ wanted)
        self.square += float(share(wanted.square().sum()))

    @torch.no_grad()
    def solve(self, mask: Tensor) -> tuple[float, float]:
        """Give the layer the best weight on the columns that `mask` (of its form) has, unless its own is as good.

        Returns:
            What the weight misses of the squares wanted, as a part of them, before and after.
        """
        weight, at = self.layer.weight, mask.any(0).nonzero().flatten()
        fitted = torch.zeros_like(weight, dtype=torch.float64)
        inverse = torch.linalg.pinv(self.gram[at][:, at], rtol=CUT, hermitian=True)
        fitted[:, at] = (inverse @ self.cross[at]).T
        fitted = (fitted * mask).to(weight.dtype)
        before, after = self.missed(weight), self.missed(fitted)
        if after < before:
            weight.copy_(fitted)
        return before, min(before, after)

    def missed(self, weight: Tensor) -> float:
        """Return what a weight misses of the squares wanted, as a part of them."""
        w = weight.detach().double().T
        lost = (w * (self.gram @ w)).sum() - 2 * (w * self.cross).sum()
        return 1.0 + float(lost) / max(self.square, 1e-30)
