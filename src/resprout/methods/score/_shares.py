"""Numbers of the units of one group as shares of it, so that those of different groups compare; not a method."""

from typing import Literal

import torch
from torch import Tensor


def shares(numbers: Tensor, by: Literal["sum", "mean"]) -> Tensor:
    """Return `numbers` (units,) divided by their sum or mean, where that is not zero."""
    whole = numbers.sum() if by == "sum" else numbers.mean()
    return numbers / torch.where(whole == 0, 1.0, whole)
