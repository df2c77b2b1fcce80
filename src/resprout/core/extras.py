"""Libraries that are needed for some things only, and what to install where they are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .errors import ResproutError


def transformers() -> Any:
    """Return the module `transformers`.

    Raises:
        ResproutError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ResproutError(
            f"models of Hugging Face need transformers ({error}): pip install 'resprout[text]'"
        ) from error
    return transformers


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep the progress bars of transformers off, and leave the setting as it was."""
    bars = transformers().utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
