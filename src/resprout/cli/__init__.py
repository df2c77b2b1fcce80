"""The command line: `resprout fit | compare | study | prune | regrow | export | bench | inspect | report | list | show`.

One file per command; flags that a library function has too are made from its signature (`flags.py`).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from .bench import bench
from .catalogue import listing, show
from .compare import compare, spread_out
from .edit import prune, regrow
from .export import export
from .fit import fit
from .inspect_ import inspect
from .report import report
from .study import study

app = typer.Typer(
    name="resprout",
    help="Prune a network past its cliff, regrow it to the budget of its device.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"resprout {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which, and end.")
    ] = False,
) -> None:
    pass


for name, command in {
    "fit": fit,
    "compare": compare,
    "study": study,
    "prune": prune,
    "regrow": regrow,
    "export": export,
    "bench": bench,
    "inspect": inspect,
    "report": report,
    "list": listing,
    "show": show,
}.items():
    app.command(name)(command)


def main() -> None:
    """Run the command that `sys.argv` names."""
    words = sys.argv[1:]
    app(spread_out(words) if words[:1] == ["compare"] else words)
