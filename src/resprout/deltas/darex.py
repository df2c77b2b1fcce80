"""DAREx: drop differences at random as DARE does, but rescale by a q between 1 - p and 1, found by search or by a formula.

Deng, Zhao, Vakilian, Chen, Li, Thrampoulidis: "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models", ICLR
2025, arXiv:2410.09344. `adam_r.py` is the paper's other half: fine-tuning that keeps differences small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import ResproutError, check_finite
from ..core.kinds import Fidelity
from ._kind import DeltaPruner, Pair
from .dare import Unit, check_drop, dropped
from .delta import Tensors


@dataclass(frozen=True)
class Darex(DeltaPruner):
    """Keep each with probability 1 - drop, divided by q.

    `by` says where q comes from: "outputs" takes the one of `grid` values for which the outputs differ least from those of the
    tuned network (no labels), "worth" the one of highest validation metric, both over `seeds` drops; "formula" computes one for
    each layer from the mean of its inputs, with `eta` (which the paper tunes) and `gamma`; a number is q itself.
    """

    drop: float = 0.99
    by: Literal["outputs", "worth", "formula"] | float = "outputs"
    grid: int = 20
    seeds: int = 2
    eta: float = 0.5
    gamma: float = 0.95
    unit: Unit = "weight"
    key: ClassVar[str | None] = "darex"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, pair: Pair) -> Tensors:
        """Drop and rescale."""
        q = self.rescale(pair)
        return {n: d / q[n] for n, d in self._drop(pair, 0).items()}

    def rescale(self, pair: Pair) -> dict[str, float]:
        """Return q for each weight.

        Raises:
            ResproutError: a number that is out of range, or a way that is unknown or lacks its data.
        """
        check_drop(self.drop)
        if not (self.grid >= 1 and self.seeds >= 1 and self.eta > 0 and 0 < self.gamma < 1):
            raise ResproutError(f"darex needs grid and seeds of 1 or more, eta above 0 and gamma in (0, 1), got {self}")
        if isinstance(self.by, int | float):
            if not 0 < self.by <= 1:
                raise ResproutError(f"q lies in (0, 1], got {self.by:g}")
            return dict.fromkeys(pair.delta, float(self.by))
        if self.by == "formula":
            means = pair.means
            return {
                n: analytic(d, means[n], self.drop, eta=self.eta, gamma=self.gamma, grid=50 * self.grid)
                for n, d in pair.delta.items()
            }
        if self.by == "worth" and pair.worth is None:
            raise ResproutError('q by "worth" needs a measure: pass worth=function of a network')
        if self.by not in ("outputs", "worth"):
            raise ResproutError(f'q comes from "outputs", "worth", "formula" or is a number, got {self.by!r}')
        drops = [self._drop(pair, seed) for seed in range(self.seeds)]
        worth = pair.worth if self.by == "worth" and pair.worth is not None else lambda model: -_change(pair, model)
        return dict.fromkeys(pair.delta, search(pair, drops, self._candidates(), worth))

    def _candidates(self) -> list[float]:
        """From 1 - drop to 1, in equal ratios: the small ones differ most."""
        return [(1 - self.drop) ** (1 - i / (self.grid - 1)) for i in range(self.grid)] if self.grid > 1 else [1.0]

    def _drop(self, pair: Pair, seed: int) -> Tensors:
        g = pair.generator("drop", seed)
        return {n: dropped(d, self.drop, g, self.unit) for n, d in pair.delta.items()}


def search(pair: Pair, drops: list[Tensors], candidates: list[float], worth: Callable) -> float:
    """Return the q of the highest mean worth over several drops; of equals the first.

    Raises:
        ResproutError: a worth that is not finite.
    """

    def mean(q: float) -> float:
        networks = (pair.network({n: d / q for n, d in drop.items()}) for drop in drops)
        return check_finite(math.fsum(worth(network) for network in networks) / len(drops), f"the worth of q = {q:g}")

    return max(candidates, key=mean)


def _change(pair: Pair, model: torch.nn.Module) -> float:
    """How far outputs are from those of the tuned network: the root of the mean square."""
    gaps = [(a - b).double().square().mean() for a, b in zip(pair.logits(model), pair.answers, strict=True)]
    return float(torch.stack(gaps).mean().sqrt())


def analytic(
    delta: Tensor, mean: Tensor, drop: float, *, eta: float = 0.5, gamma: float = 0.95, grid: int = 1000
) -> float:
    """Return q of a layer from its differences and the mean of its inputs: the mean over its outputs.

    With c = delta * mean, p = drop and Phi = (1 - 2p) / log((1 - p) / p), for each output q in [1 - p, 1) makes least

        | eta (1 - (1 - p) / q) sum c + eta^2 Phi sum c^2 / (4 q^2) + log(2 / (1 - gamma)) |,

    the exponent of a bound on how far the output moves with probability gamma (looked for on a grid).

    Args:
        delta: of the weight, (outputs, ...).
        mean: (groups, columns) as the weight's columns are flattened.
        drop, eta, gamma: as above.
        grid: values of q that are tried.
    """
    if drop == 0:
        return 1.0
    rows = delta.double().reshape(len(mean), -1, mean.shape[1])  # an output reads the inputs of its group
    c = (rows * mean.double()[:, None]).flatten(0, 1)
    q = torch.linspace(1 - drop, 1, grid + 1, dtype=torch.float64)[:-1]
    phi = 0.5 if drop == 0.5 else (1 - 2 * drop) / math.log((1 - drop) / drop)
    first = eta * (1 - (1 - drop) / q) * c.sum(1)[:, None]
    second = eta**2 * phi * c.square().sum(1)[:, None] / (4 * q**2)
    return float(q[(first + second + math.log(2 / (1 - gamma))).abs().argmin(1)].mean())
