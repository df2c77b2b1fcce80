"""Flags made from the signature and the docstring of a library function, and errors as one line."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..core.errors import ResproutError

PLAIN = {"int": int, "float": float, "str": str, "bool": bool}


def console(stderr: bool = False) -> Console:
    """Return a console; where the output is no terminal, lines are not broken."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = 200
    return made


def fail(error: BaseException) -> typer.Exit:
    """Print an error as one clear line, and return what to raise."""
    console(stderr=True).print(f"[bold red]error:[/] {_escape(' '.join(str(error).split()))}", soft_wrap=True)
    return typer.Exit(2)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors of our own into one line and exit code 2; others are bugs and keep their traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ResproutError as error:
            if os.environ.get("RESPROUT_TRACEBACK"):
                raise
            raise fail(error) from None

    return guarded


def helps(function: Callable[..., Any]) -> dict[str, str]:
    """Return argument -> help, from the `Args:` of a docstring."""
    found: dict[str, str] = {}
    last: list[str] = []
    section = re.search(r"\n\s*Args:\n(.*?)(\n\s*\n|\Z)", function.__doc__ or "", re.S)
    lines = section[1].splitlines() if section else []
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    for line in lines:
        head = re.match(r"(\w+(?:, \w+)*): (.*)", line[indent:])
        if head:
            last = head[1].split(", ")
            found |= dict.fromkeys(last, head[2].strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in last}
    return found


def like(
    function: Callable[..., Any],
    *taken: str,
    required: Sequence[str] = (),
    unset: Sequence[str] = (),
    notes: dict[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that ends in `**given` the arguments `taken` of a library function as flags.

    Types, defaults and help are those of the function; an argument that takes a name or an object takes the name.

    Args:
        function: the library function.
        taken: its arguments to offer, in this order.
        required: those of them without a default.
        unset: those of them that are None when not given, whatever the function's default.
        notes: help that replaces the function's own.
    """
    theirs, texts = inspect.signature(function).parameters, helps(function) | (notes or {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        first = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        extra = []
        for name in taken:
            default = inspect.Parameter.empty if name in required else theirs[name].default
            kind = _kind(str(theirs[name].annotation), default)
            if name in unset:
                kind, default = kind | None, None
            default = list(default) if isinstance(default, tuple) else default
            flag = name.replace("_", "-")
            decls = (f"--{flag}/--no-{flag}",) if kind is bool else (f"--{flag}",)
            option = typer.Option(*decls, help=texts.get(name, ""))
            extra.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
                )
            )

        @wraps(command)
        def called(*args: Any, **kwargs: Any) -> None:
            command(*args, **kwargs)

        called.__signature__ = own.replace(parameters=[*first, *extra])  # pyright: ignore[reportAttributeAccessIssue]
        called.__annotations__ = {}
        del called.__wrapped__
        return called

    return decorate


def _kind(annotation: str, default: Any) -> Any:
    """The type of a flag, from an annotation such as "str | Score" and the default."""
    parts = [p.strip() for p in annotation.split("|")]
    if "Sequence[str]" in parts:
        return list[str] | None
    plain: Any = next((PLAIN[p] for p in parts if p in PLAIN), type(default))
    return plain | None if default is None or "None" in parts else plain


def columns(first: str, *others: str) -> Table:
    """Return an empty table without lines: one column of words, the others of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
