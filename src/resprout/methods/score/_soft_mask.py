"""A soft mask that makes the loss of one batch small; not a method.

Lee, Kim, Ro, CVPR 2022, arXiv:2204.02738; softplus, held at 1, is what their released code has for it.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...core.probe import Probe

ONE = math.log(math.e - 1)  # where softplus is 1


def masked(probe: Probe, batch: Any, rounds: int, lr: float) -> dict[str, Tensor]:
    """Return the prunable weights times a mask in [0, 1] that begins at 1 and is learnt in `rounds` steps of Adam."""
    w = probe.weights()
    soft = {n: torch.full_like(x, ONE).requires_grad_() for n, x in w.items()}
    optimizer = torch.optim.Adam(soft.values(), lr)
    for _ in range(rounds):
        with torch.enable_grad():
            probe.loss(batch, {n: w[n] * softplus(s) for n, s in soft.items()}).backward(inputs=list(soft.values()))
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for s in soft.values():
                s.clamp_(max=ONE)
    with torch.no_grad():
        return {n: w[n] * torch.where(s < s.new_tensor(ONE), softplus(s), 1.0) for n, s in soft.items()}
