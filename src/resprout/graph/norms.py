"""Norms over channels that remember of how many: a channel that has left still counts as a zero in their mean.

A layer norm divides by the number of channels. Where some are masked, they are zeros that it counts; where they have been
removed, it would count fewer and compute something else. These two modules count as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """A layer norm of `channels` along dimension `dim` as if there were `of`, the others zero."""

    def __init__(self, channels: int, of: int, eps: float = 1e-5, bias: bool = True, dim: int = -1):
        super().__init__(channels, eps, bias=bias)
        self.of, self.dim = of, dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the norm."""
        dim = self.dim
        mean = input.sum(dim, keepdim=True) / self.of
        centred = input - mean
        absent = self.of - input.shape[dim]
        variance = (centred.square().sum(dim, keepdim=True) + absent * mean.square()) / self.of
        sizes = [1] * input.dim()
        sizes[dim] = -1
        y = centred * torch.rsqrt(variance + self.eps) * self.weight.reshape(sizes)
        return y if self.bias is None else y + self.bias.reshape(sizes)

    def extra_repr(self) -> str:
        """With the number of channels that it counts."""
        return f"{super().extra_repr()}, of={self.of}, dim={self.dim}"


class RMSNorm(nn.Module):
    """A root-mean-square norm of its channels as if there were `of`, the others zero; in float32, as language models do."""

    def __init__(self, weight: Tensor, of: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.of, self.eps = of, eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of the last dimension."""
        y = x.float()
        y = y * torch.rsqrt(y.square().sum(-1, keepdim=True) / self.of + self.eps)
        return self.weight * y.to(x.dtype)

    def extra_repr(self) -> str:
        """Channels, and how many it counts."""
        return f"{len(self.weight)}, of={self.of}, eps={self.eps:g}"


def counts(module: nn.Module | None, kind: str) -> bool:
    """Whether one of the norms above can stand in for `module`: a layer norm, or a root-mean-square norm, by any name."""
    weight, name = getattr(module, "weight", None), type(module).__name__
    known = ("LayerNorm",) if kind == "layer" else ("RMSNorm", "T5LayerNorm")
    fits = isinstance(weight, Tensor) and weight.dim() == 1 and _eps(module) is not None
    return fits and any(word in name for word in known)


def _eps(module: nn.Module | None) -> float | None:
    found = [getattr(module, name, None) for name in ("variance_epsilon", "eps")]
    return next((float(e) for e in found if isinstance(e, float)), None)


def counting(module: nn.Module, keep: Tensor) -> nn.Module:
    """Return the norm of the channels `keep` (positions) that counts as `module` does.

    A layer norm that is not torch's own is taken to run over dimension 1, as those of convolutional networks do; whether it
    really does is found out on trial.

    Raises:
        TypeError: it is none of those of `counts`.
    """
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    of, eps = getattr(module, "of", len(weight)), _eps(module)
    if eps is None:
        raise TypeError(f"{type(module).__name__} is no norm that counts")
    if counts(module, "rms"):
        made: nn.Module = RMSNorm(weight.detach()[keep].clone(), of, eps)
    else:
        dim = getattr(module, "dim", -1 if type(module) is nn.LayerNorm else 1)
        made = LayerNorm(len(keep), of, eps, getattr(module, "bias", None) is not None, dim).to(weight.device)
        made.load_state_dict({n: t[keep] for n, t in module.state_dict().items()})
    return made.to(weight).train(module.training)
