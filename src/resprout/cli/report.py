"""`resprout report`: the page of comparisons and studies, the picture of a run, from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ResproutError
from ..report.audited import holds
from ..report.page import write_page
from ..report.picture import draw
from .flags import console, plain_errors


@plain_errors
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Of a comparison, of studies, of both, or of a run (it holds result.json); one or several."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The page; default index.html in the folder, if it is one.")] = None,
) -> None:
    """Write the page of comparisons, studies and audits, one HTML file; of a run draw the picture again, as PNG and SVG."""
    runs = [f for f in folders if (f / "result.json").exists()]
    others = [f for f in folders if f not in runs or holds(f / "result.json")]
    if out is not None and not others:
        raise ResproutError(
            "--out is for the page of comparisons, studies and audits; the picture of a run lies in its folder"
        )
    for folder in runs:
        for path in draw(folder).values():
            console().print(f"wrote {path}", markup=False)
    if others:
        console().print(f"wrote {write_page(*others, out=out)}", markup=False)
