"""What allocations by block share: which weights stand in one block, and densities tilted by its importance."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...core.kinds import Scores

NUMBERED = re.compile(r"^(?:.*?\.)??\d+(?=\.)")


def blocks(names: Sequence[str]) -> dict[str, list[str]]:
    """Return block -> its weights: those whose names agree up to their first number; one without a number is a block itself."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = NUMBERED.match(name)
        found.setdefault(match[0] if match else name, []).append(name)
    return found


def together(scores: Scores, names: Sequence[str]) -> Tensor:
    """Return the scores of a block that compete, flat float32."""
    return torch.cat([scores.competing(n).reshape(-1).float() for n in names])


def tilted(
    scores: Scores, prices: Mapping[str, float], allowance: float, importance: Mapping[str, float], width: float
) -> dict[str, float]:
    """Return counts at densities that rise with a block's importance over a range of `width`, about the mean that is allowed."""
    members = blocks(list(scores))
    low, high = min(importance.values()), max(importance.values())
    rise = {b: width * (i - low) / (high - low) if high > low else 0.0 for b, i in importance.items()}
    whole = sum(prices[n] * size for n, size in scores.sizes.items())
    lift = allowance / whole - sum(rise.values()) / len(rise)
    return {n: min(1.0, max(0.01, rise[b] + lift)) * scores.sizes[n] for b, names in members.items() for n in names}
