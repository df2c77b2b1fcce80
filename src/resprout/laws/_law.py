"""The kind of method that is a scaling law, and the one way to fit it: Huber loss of the logarithm, from many starts.

Hoffmann et al.: "Training Compute-Optimal Large Language Models", NeurIPS 2022, arXiv:2203.15556 (approach 3: Huber with 1e-3
on log losses, L-BFGS from a grid). Here the variables are divided by their geometric means before the fit, which makes the
coefficients nearly independent, the starts are drawn at random around them, and only the best few go on to L-BFGS.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.kinds import Method

Points = Mapping[str, Tensor]  # variable -> float64 (points,)


class Law(Method):
    """A loss as a function of variables and coefficients.

    Coefficients in `positive` are searched by their logarithm. `scaled` variables enter by powers only, and are divided by
    their geometric means for the fit; what this does to the coefficients `plain` undoes.
    """

    coefficients: ClassVar[tuple[str, ...]]
    positive: ClassVar[frozenset[str]]
    variables: ClassVar[tuple[str, ...]]
    scaled: ClassVar[frozenset[str]]

    @abstractmethod
    def loss(self, c: Mapping[str, Tensor], at: Points) -> Tensor:
        """Return the loss at each point; coefficients are of shape (1,) or (starts, 1), the result (..., points)."""

    @abstractmethod
    def plain(self, c: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
        """Return the coefficients for variables as they are, from those for variables divided by `means`."""

    def guesses(self, losses: Tensor, starts: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return coefficients (starts, 1) to begin with: exponents in [0.05, 1.5], terms from a hundredth of the loss up."""
        found = {}
        for name in self.coefficients:
            share = torch.rand(starts, 1, generator=generator, dtype=torch.float64)
            power = name in ("alpha", "beta")
            found[name] = (0.05 + 1.45 * share) if power else losses.mean() * 100 ** (share - 1)
            if name not in self.positive:
                found[name] = 4 * share - 2
        return found


@dataclass(frozen=True)
class Fitted:
    """A law with its coefficients, and the mean Huber loss that it was fitted to."""

    law: Law
    coefficients: Mapping[str, float]
    error: float = 0.0

    def __call__(self, **at: float | Sequence[float] | Tensor) -> Tensor:
        """Return the loss at the values of the law's variables, float64.

        Raises:
            ResproutError: a variable is missing or unknown.
        """
        c = {n: torch.tensor([v], dtype=torch.float64) for n, v in self.coefficients.items()}
        return self.law.loss(c, points(self.law, at))


def points(law: Law, at: Mapping[str, float | Sequence[float] | Tensor]) -> dict[str, Tensor]:
    """Return the variables as float64 (points,), single numbers repeated.

    Raises:
        ResproutError: a variable is missing, unknown or not positive, or their lengths differ.
    """
    if set(at) != set(law.variables):
        raise ResproutError(
            f"{type(law).__name__} is a law of {', '.join(law.variables)}; got {', '.join(at) or 'nothing'}"
        )
    found = {n: torch.as_tensor(v, dtype=torch.float64).reshape(-1) for n, v in at.items()}
    lengths = {len(v) for v in found.values()} - {1}
    if len(lengths) > 1 or not all(bool(((v > 0) & v.isfinite()).all()) for v in found.values()):
        raise ResproutError(f"variables are positive numbers, as many of each as points, got lengths {sorted(lengths)}")
    return {n: v.expand(max([*lengths, 1])) for n, v in found.items()}


def huber(losses: Tensor, predicted: Tensor, delta: float) -> Tensor:
    """Return the mean Huber loss of the logarithms over the last dimension; a loss under 0 counts as very small."""
    gap = predicted.clamp_min(1e-12).log() - losses.log()
    size = gap.abs()
    return torch.where(size <= delta, gap.square() / 2, delta * (size - delta / 2)).mean(-1)


def fit(
    law: Law,
    losses: Sequence[float] | Tensor,
    at: Mapping[str, float | Sequence[float] | Tensor],
    *,
    delta: float = 1e-3,
    starts: int = 4096,
    finals: int = 6,
    steps: int = 300,
    seed: int = 0,
) -> Fitted:
    """Return the coefficients with the least mean Huber loss of the logarithm.

    Args:
        law: what is fitted.
        losses: measured, positive.
        at: variable -> its value at each of them.
        delta: where the Huber loss turns linear.
        starts: coefficients drawn at random.
        finals: how many of them are improved by L-BFGS.
        steps: of each.
        seed: of the starts.

    Raises:
        ResproutError: losses that are not positive, or fewer than the coefficients.
    """
    y, x = torch.as_tensor(losses, dtype=torch.float64).reshape(-1), points(law, at)
    if len(y) < len(law.coefficients) or not bool(((y > 0) & y.isfinite()).all()):
        raise ResproutError(f"{len(law.coefficients)} coefficients need as many positive losses, got {len(y)}")
    if any(len(v) not in (1, len(y)) for v in x.values()):
        raise ResproutError(f"there are {len(y)} losses, and variables of {len(next(iter(x.values())))} points")
    means = {n: float(x[n].log().mean().exp()) if n in law.scaled else 1.0 for n in x}
    x = {n: v / means[n] for n, v in x.items()}
    generator = torch.Generator().manual_seed(seed)
    first = {n: c.log() if n in law.positive else c for n, c in law.guesses(y, starts, generator).items()}
    errors = huber(y, law.loss(_opened(law, first), x), delta).nan_to_num(math.inf)
    best: tuple[float, dict[str, float]] = (math.inf, {})
    for at_ in errors.topk(min(finals, starts), largest=False).indices.tolist():
        error, found = _improved(law, {n: c[at_] for n, c in first.items()}, y, x, delta, steps)
        best = min(best, (error, found), key=lambda pair: pair[0])
    return Fitted(law, law.plain(best[1], means), best[0])


def _opened(law: Law, c: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.exp() if n in law.positive else v for n, v in c.items()}


def _improved(
    law: Law, start: Mapping[str, Tensor], y: Tensor, x: Points, delta: float, steps: int
) -> tuple[float, dict[str, float]]:
    """One start, improved: by squares first (a Huber loss is flat far away), then by the loss itself."""
    theta = {n: c.clone().requires_grad_() for n, c in start.items()}

    def closure(width: float):
        def close() -> Tensor:
            optimizer.zero_grad()
            value = huber(y, law.loss(_opened(law, theta), x), width) / min(delta, width)
            value.backward()
            return value

        return close

    for width in (1.0, delta):
        optimizer = torch.optim.LBFGS(
            [*theta.values()], max_iter=steps, history_size=20, tolerance_grad=1e-12, tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimizer.step(closure(width))
    with torch.no_grad():
        found = _opened(law, theta)
        error = float(huber(y, law.loss(found, x), delta).detach())
    return (error if math.isfinite(error) else math.inf), {n: float(c.detach()) for n, c in found.items()}


def slope_difference(predicted: Tensor, actual: Tensor) -> float:
    """Return ASD: the mean distance of the slopes of two loss curves, taken at equal steps; 0 where they run alike.

    Chen et al., arXiv:2411.10272: the metric that chooses between laws, for what a planner needs is when a curve goes flat.

    Raises:
        ResproutError: curves of two lengths, or of one point.
    """
    if predicted.shape != actual.shape or predicted.shape[-1] < 2:
        raise ResproutError(
            f"two curves of the same two points or more have slopes, got {predicted.shape}, {actual.shape}"
        )
    return float((predicted.diff() - actual.diff()).abs().mean())


def bootstrap(
    law: Law,
    losses: Sequence[float] | Tensor,
    at: Mapping[str, float | Sequence[float] | Tensor],
    *,
    draws: int = 40,
    starts: int = 1024,
    finals: int = 1,
    seed: int = 0,
) -> list[Fitted]:
    """Return the law fitted to each of `draws` samples of the points with replacement: quantiles of a plan are its interval."""
    y, x = torch.as_tensor(losses, dtype=torch.float64).reshape(-1), points(law, at)
    x = {n: v.expand(len(y)) for n, v in x.items()}
    rows = torch.randint(len(y), (draws, len(y)), generator=torch.Generator().manual_seed(seed))
    return [fit(law, y[r], {n: v[r] for n, v in x.items()}, starts=starts, finals=finals, seed=seed) for r in rows]
