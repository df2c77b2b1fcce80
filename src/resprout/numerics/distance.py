"""How far outputs are from those of another network: what distillation makes small, and what removal is judged by.

All take tensors of shape (..., features), compare the last dimension in float32, and return the mean over the others.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Measure = Literal["kl", "js", "angular", "euclidean"]


def kl(reference: Tensor, logits: Tensor, temperature: float = 1.0, top: int | None = None) -> Tensor:
    """Return KL(p || q) in nats, of the softmax of `reference` and of `logits`, both divided by `temperature`.

    With `top`, of the classes that are most likely by `reference` alone, both renormalised over them (Týr-the-Pruner,
    arXiv:2503.09657).
    """
    reference, logits = reference.float() / temperature, logits.float() / temperature
    if top is not None and top < reference.shape[-1]:
        reference, at = reference.topk(top, dim=-1)
        logits = logits.gather(-1, at)
    p, q = F.log_softmax(reference, -1), F.log_softmax(logits, -1)
    return torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1).mean()  # what is impossible says nothing


def js(reference: Tensor, logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence in nats of the softmax of both: symmetric, between 0 and ln 2."""
    p, q = F.log_softmax(reference.float(), -1), F.log_softmax(logits.float(), -1)
    apart = (q - p).nan_to_num(0.0).clamp(-80, 80)  # log(p / middle) by expm1 and log1p, exact where both are alike
    to_p, to_q = -torch.log1p(torch.expm1(apart) / 2), -torch.log1p(torch.expm1(-apart) / 2)
    return (p.exp() * to_p + q.exp() * to_q).sum(-1).mean() / 2


def angular(reference: Tensor, other: Tensor) -> Tensor:
    """Return the angle between both as a fraction of pi, in [0, 1].

    It is computed as 2 atan2(|a - b|, |a + b|) of the unit vectors, which is exact where they are alike; the arccosine is not.
    """
    a, b = F.normalize(reference.float(), dim=-1), F.normalize(other.float(), dim=-1)
    return (2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)) / math.pi).mean()


def euclidean(reference: Tensor, other: Tensor) -> Tensor:
    """Return the Euclidean distance."""
    return (reference.float() - other.float()).norm(dim=-1).mean()


def distance(measure: Measure, reference: Tensor, other: Tensor) -> Tensor:
    """Return the distance of that name."""
    return {"kl": kl, "js": js, "angular": angular, "euclidean": euclidean}[measure](reference, other)
