"""The edge of chaos: the spread of random weights at which signals neither die nor explode with depth.

Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli: "Exponential expressivity in deep neural networks through transient chaos", NeurIPS
2016, arXiv:1606.05340; Hayou, Doucet, Rousseau: "On the Impact of the Activation Function on Deep Neural Networks Training", ICML
2019, arXiv:1902.06853.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ResproutError

NODES = 200  # even, so that none falls on the kink of a ReLU
Function = Callable[[Tensor], Tensor]


def gaussian_mean(function: Function, nodes: int = NODES) -> float:
    """Return E[function(Z)] of a standard normal Z, by Gauss-Hermite quadrature in float64."""
    at, weights = _nodes(nodes)
    return float((weights * function(at)).sum())


@functools.cache
def _nodes(nodes: int) -> tuple[Tensor, Tensor]:
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(at), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def moments(activation: Function, q: float, nodes: int = NODES) -> tuple[float, float]:
    """Return E[phi(sqrt(q) Z)^2] and E[phi'(sqrt(q) Z)^2]: what a layer passes on of a signal, and of a small difference."""

    def slope(z: Tensor) -> Tensor:
        x = (math.sqrt(q) * z).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(activation(x).sum(), x)[0].square()

    return gaussian_mean(lambda z: activation(math.sqrt(q) * z).square(), nodes), gaussian_mean(slope, nodes)


def edge(activation: Function, sigma_b: float = 0.0, nodes: int = NODES) -> float:
    """Return the sigma_w on the edge of chaos: weights N(0, sigma_w^2 / inputs) and biases N(0, sigma_b^2) are there.

    That is sigma_w^2 E[phi'(sqrt(q) Z)^2] = 1 at the fixed point q = sigma_b^2 + sigma_w^2 E[phi(sqrt(q) Z)^2]. With the first
    put into the second, one equation in q is left, which is solved by bisection.

    Raises:
        ResproutError: there is none.
    """

    def excess(q: float) -> float:
        passed, slope = moments(activation, q, nodes)
        return sigma_b**2 + passed / slope - q

    low, high = 1e-9, 1.0
    if abs(excess(high)) > 1e-9 * high or sigma_b:  # ReLU, for one, fulfils it at every q
        while excess(high) > 0:
            high *= 2
            if high > 1e6:
                raise ResproutError(f"this activation has no edge of chaos at sigma_b = {sigma_b:g}; choose another")
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return moments(activation, high, nodes)[1] ** -0.5
