"""The empirical Fisher as rows: H = X^T X / n, with a gradient of a few samples in each row of X (n, weights).

Nothing is ever as large as weights times weights: what is solved is n by n (Woodbury).
Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao, Mazumder: "Fast as CHITA: Neural Network Pruning with Combinatorial
Optimization", ICML 2023, arXiv:2302.14623.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.masks import Masks
from ..core.probe import Probe, first_tensor

MOST = 1 << 30  # numbers in the rows
PIECE = 1 << 16  # columns that are taken in float64 at a time


def samples(batch: Any, size: int) -> Iterator[Any]:
    """Yield a batch in pieces of `size` samples: every tensor in it that is as long as the first is cut along."""
    whole = len(first_tensor(batch))

    def part(value: Any, start: int) -> Any:
        if isinstance(value, Tensor):
            return value[start : start + size] if value.dim() and len(value) == whole else value
        if isinstance(value, Mapping):
            return {k: part(v, start) for k, v in value.items()}
        if isinstance(value, tuple | list):
            parts = [part(v, start) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    yield from (part(batch, start) for start in range(0, whole, size))


def flat(tensors: Mapping[str, Tensor], masks: Masks) -> Tensor:
    """Return the living of all tensors in one line."""
    return torch.cat([tensors[n][m] for n, m in masks.items()])


def unflat(line: Tensor, masks: Masks) -> dict[str, Tensor]:
    """Return such a line as tensors, zero where dead."""
    parts = line.split(list(masks.counts.values()))
    return {
        n: torch.zeros(m.shape, dtype=line.dtype, device=line.device).masked_scatter_(m, p)
        for (n, m), p in zip(masks.items(), parts, strict=True)
    }


def gradient_rows(probe: Probe, masks: Masks) -> Tensor:
    """Return X: for each batch of the probe the gradient of its loss in the living weights, float32 (batches, weights).

    Raises:
        ResproutError: more numbers than one wants to hold.
    """
    count = len(probe.data())
    if count * masks.alive > MOST:
        raise ResproutError(
            f"{count:,} gradients of {masks.alive:,} weights are too many to hold: use fewer than {MOST // masks.alive:,} rows"
        )
    rows = torch.empty(count, masks.alive)
    for i, grads in enumerate(probe.per_batch()):
        rows[i] = flat(grads, masks).float().cpu()
    return rows


def back_solve(rows: Tensor, weights: Tensor, keep: Tensor, ridge: float, slope: Tensor | None = None) -> Tensor:
    """Return the w that is zero outside `keep` and makes |X (w - w0)|^2 / 2 + r |w - w0|^2 / 2 + a (w - w0) least.

    Args:
        rows: X (n, weights).
        weights: w0 (weights,).
        keep: bool (weights,).
        ridge: r, above 0.
        slope: a (weights,); default none.
    """
    kept = rows[:, keep].double()
    inner = kept @ kept.T + ridge * torch.eye(len(kept), dtype=torch.float64)
    gone = weights.double() * ~keep
    lost = torch.stack([r.double() @ g for r, g in zip(rows.split(PIECE, 1), gone.split(PIECE), strict=True)]).sum(0)
    change = kept.T @ torch.linalg.solve(inner, lost)  # (X'X + r)^-1 X' = X' (X X' + r)^-1
    if slope is not None:
        a = slope[keep].double()
        change -= (a - kept.T @ torch.linalg.solve(inner, kept @ a)) / ridge
    found = torch.zeros_like(weights, dtype=torch.float64)
    found[keep] = weights[keep].double() + change
    return found


def objective(rows: Tensor, weights: Tensor, trial: Tensor, ridge: float, slope: Tensor | None = None) -> float:
    """Return what `back_solve` makes least, at `trial`."""
    off = trial.double() - weights.double()
    value = (rows @ off.to(rows.dtype)).double().square().sum() / 2 + ridge * off.square().sum() / 2
    return float(value if slope is None else value + slope.double() @ off)


def thresholded(
    rows: Tensor, weights: Tensor, keep: int, ridge: float, slope: Tensor | None = None, rounds: int = 50
) -> tuple[Tensor, Sequence[float]]:
    """Return w with `keep` weights not zero that makes the objective small, by iterative hard thresholding, and its course.

    It begins at the largest weights. Each round goes down the gradient by the best step within the support, or by one that is
    halved and doubled as long as the objective falls, and keeps the largest. The objective never rises.
    """

    def largest(w: Tensor) -> Tensor:
        found = torch.zeros_like(w)
        at = w.abs().topk(keep).indices
        found[at] = w[at]
        return found

    def value(w: Tensor) -> float:
        return objective(rows, weights, w, ridge, slope)

    w = largest(weights)
    course = [value(w)]
    for _ in range(rounds if 0 < keep < len(weights) else 0):
        off = w - weights
        gradient = rows.T @ (rows @ off) + ridge * off
        gradient = gradient if slope is None else gradient + slope
        inside = gradient * (w != 0)
        size = float(inside.double().square().sum())
        bend = float((rows @ inside).double().square().sum()) + ridge * size
        step = size / bend if bend > 0 else 1 / max(ridge, 1e-30)
        tries = [(value(t := w - step * inside), t)]
        for factor in (0.5, 2.0):  # the first that does not fall ends a direction
            last = course[-1]
            scale = step if factor > 1 else step / 2
            for _ in range(6):
                found = value(t := largest(w - scale * gradient))
                if found >= last and factor > 1:
                    break
                tries.append((found, t))
                last, scale = found, scale * factor
        best, trial = min(tries, key=lambda pair: pair[0])
        if best >= course[-1] * (1 - 1e-6):
            break
        w = trial
        course.append(best)
    return w, course
