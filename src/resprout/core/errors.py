"""Errors that name the argument and the remedy, and the checks that many places share."""

import difflib
import math
from collections.abc import Iterable


class ResproutError(ValueError):
    """A request that cannot be met; the message names the argument and what to do instead."""


class BudgetError(ResproutError):
    """A budget that cannot be met; the message says how near one can get."""


class CheckpointError(ResproutError):
    """A file or run folder that is damaged, foreign, or in use by another process."""


class TraceError(ResproutError):
    """A model that no device program can stand for; the message names the operation and what is supported."""


class LayerDied(UserWarning):
    """A tensor lost its last weight, so nothing passes through it any more."""


def nearest(name: str, known: Iterable[str], what: str) -> ResproutError:
    """Return the error for an unknown `name`, with the nearest of the `known` ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    return ResproutError(f"unknown {what} {name!r}; {hint}")


def check_sparsity(value: float, argument: str = "sparsity") -> float:
    """Return `value` if it is a fraction in [0, 1]; percentages and densities get a hint.

    Raises:
        ResproutError: outside [0, 1], NaN, or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ResproutError(f"{argument} must be a number in [0, 1], got {value!r}")
    if 0 <= value <= 1:
        return float(value)
    hint = ""
    if 1 < value <= 10:
        hint = f"; did you mean {1 - value / 100:g} (keep {value:g} %) or {value / 100:g}?"
    elif 10 < value <= 100:
        hint = f"; did you mean {value / 100:g}?"
    raise ResproutError(f"{argument} is a fraction in [0, 1], got {value:g}{hint}")


def check_finite(value: float, what: str) -> float:
    """Return `value` unless it is NaN or infinite.

    Raises:
        ResproutError: naming `what`.
    """
    if not math.isfinite(value):
        raise ResproutError(f"{what} is {value}; lower the learning rate or check the data and the weights")
    return value
