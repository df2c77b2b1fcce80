"""P2 law: the loss of a pruned network while it is trained again, from its size, the tokens and how much was pruned.

Chen, Hu, Zhang, Wang, Li, Chen, Zhang: "P2 Law: Scaling Law for Post-Training After Model Pruning", ACL 2025, arXiv:2411.10272.
One fit per way of pruning (depth, width, 2:4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ._law import Fitted, Law, Points


@dataclass(frozen=True)
class P2Law(Law):
    """L0 + (1 / rate)^gamma (1 / params)^delta (N_C / params^alpha + D_C / tokens^beta + E).

    Variables: params (before pruning), tokens (of training after it), rate (the share pruned), dense_loss (L0).
    """

    coefficients: ClassVar[tuple[str, ...]] = ("N_C", "alpha", "D_C", "beta", "E", "gamma", "delta")
    positive: ClassVar[frozenset[str]] = frozenset({"N_C", "alpha", "D_C", "beta"})
    variables: ClassVar[tuple[str, ...]] = ("params", "tokens", "rate", "dense_loss")
    scaled: ClassVar[frozenset[str]] = frozenset({"params", "tokens", "rate"})
    key: ClassVar[str | None] = "p2-law"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def loss(self, c: Mapping[str, Tensor], at: Points) -> Tensor:
        """Return the loss."""
        inner = c["N_C"] * at["params"] ** -c["alpha"] + c["D_C"] * at["tokens"] ** -c["beta"] + c["E"]
        return at["dense_loss"] + at["rate"] ** -c["gamma"] * at["params"] ** -c["delta"] * inner

    def plain(self, c: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
        """Return the coefficients for variables as they are."""
        both = means["rate"] ** c["gamma"] * means["params"] ** c["delta"]
        size, data = means["params"] ** c["alpha"], means["tokens"] ** c["beta"]
        return {**c, "N_C": c["N_C"] * size * both, "D_C": c["D_C"] * data * both, "E": c["E"] * both}


def factor(fitted: Fitted, params: float, rate: float) -> float:
    """Return what the law multiplies its bracket by: k = (1 / rate)^gamma (1 / params)^delta."""
    return rate ** -fitted.coefficients["gamma"] * params ** -fitted.coefficients["delta"]


def floor(fitted: Fitted, params: float, rate: float, dense_loss: float) -> float:
    """Return the loss after endless training."""
    c = fitted.coefficients
    return dense_loss + factor(fitted, params, rate) * (c["N_C"] * params ** -c["alpha"] + c["E"])


def tokens_until(
    fitted: Fitted, params: float, rate: float, *, gap: float | None = None, slope: float | None = None
) -> float:
    """Return the least tokens after which the loss is within `gap` of its floor, or falls by less than `slope` a token.

    Both in closed form: k D_C / D^beta = gap, and k D_C beta / D^(beta + 1) = slope.

    Raises:
        ResproutError: both or neither are given, or one that is not positive.
    """
    wanted = gap if slope is None else slope
    if wanted is None or wanted <= 0 or (gap is None) == (slope is None):
        raise ResproutError(f"training stops at a positive gap or slope, one of them; got gap={gap}, slope={slope}")
    beta = fitted.coefficients["beta"]
    k = factor(fitted, params, rate) * fitted.coefficients["D_C"]
    power = math.log(k / wanted) / beta if gap is not None else math.log(k * beta / wanted) / (beta + 1)
    return math.exp(power) if power < 700 else math.inf  # a curve that all but never goes flat


def broken(fitted: Fitted, params: float) -> list[str]:
    """Return which of the paper's conditions the coefficients break, in words; none is as it should be.

    The loss falls with tokens by the form of the law; it should rise with the share pruned, which is gamma < 0 as the law is
    written, and its floor should not lie below the dense loss.
    """
    c, found = fitted.coefficients, []
    if c["gamma"] >= 0:
        found.append(f"the loss does not rise with the share pruned (gamma = {c['gamma']:.3g})")
    if c["N_C"] * params ** -c["alpha"] + c["E"] < 0:
        found.append("after endless training the loss would be below that of the dense network")
    return found
