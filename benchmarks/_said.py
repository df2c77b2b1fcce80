"""Facts on a line that people read."""

from collections.abc import Mapping
from typing import Any


def said(row: Mapping[str, Any]) -> str:
    """Return the facts with commas between them; numbers in four digits, tables within in brackets."""
    return ", ".join(f"{name} {_word(value)}" for name, value in row.items())


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({said(value)})"
    if isinstance(value, list | tuple):
        return " ".join(map(_word, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
