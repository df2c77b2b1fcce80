"""`resprout report`: the picture of a run, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report.picture import draw
from .flags import console, plain_errors


@plain_errors
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder (it holds result.json).")],
) -> None:
    """Draw the picture of a run again: accuracy over sparsity, as PNG and SVG."""
    for path in draw(folder).values():
        console().print(f"wrote {path}", markup=False)
