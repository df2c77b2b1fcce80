"""How far two trainings of one network have come apart: the stability to pruning, and that to the order of the data.

Frankle, Dziugaite, Roy, Carbin: "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611 (there against the step
that is rewound to).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.masks import Masks


@dataclass(frozen=True)
class Apart:
    """Euclidean distance, and angle in degrees."""

    distance: float
    angle: float


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor], masks: Masks) -> Apart:
    """Compare the weights that `masks` say are alive.

    Stability to pruning: `a` a trained subnetwork, `b` the trained dense network it was cut from. Stability to data order:
    two trainings of one subnetwork.

    Args:
        a, b: tensors by name, such as `state_dict`s; they may hold more than the masks name.
        masks: the subnetwork.

    Raises:
        ResproutError: no weight alive.
    """
    if not masks.alive:
        raise ResproutError("no weight is alive, so there is nothing to compare")
    x, y = (torch.cat([t[n].detach().double()[m] for n, m in masks.items()]) for t in (a, b))
    scale = max(float(x.norm() * y.norm()), 1e-300)
    cosine = min(1.0, max(-1.0, float(x @ y) / scale))
    return Apart(float((x - y).norm()), math.degrees(math.acos(cosine)))
