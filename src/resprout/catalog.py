"""Methods by name, without a registry: a file's path is its name, and the folders are walked.

`score/magnitude.py` is the score "magnitude", `studies/pie.py` the study "pie"; a trailing underscore
(`allocate/global_.py`) is dropped.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .core.errors import ResproutError, nearest
from .core.kinds import Method

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """What is known of one method without running it."""

    name: str
    kind: str
    method: type[Method]

    @property
    def key(self) -> str | None:
        """Its key in the catalogue of published systems."""
        return self.method.key

    @property
    def fidelity(self) -> str:
        """How far it was checked."""
        return self.method.fidelity

    @property
    def module(self) -> ModuleType:
        """The file it lives in."""
        return importlib.import_module(self.method.__module__)

    @property
    def summary(self) -> str:
        """The first paragraph of its file."""
        return " ".join(inspect.cleandoc(self.module.__doc__ or "").split("\n\n")[0].split())

    @property
    def citation(self) -> str:
        """The second paragraph of its file."""
        paragraphs = inspect.cleandoc(self.module.__doc__ or "").split("\n\n")
        return " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""


@cache
def cards() -> tuple[Card, ...]:
    """Return a card for every method, by kind and name."""
    found = []
    files = [*sorted(HERE.glob("methods/*/[!_]*.py")), *sorted(HERE.glob("studies/[!_]*.py"))]
    for file in files:
        kind, stem = file.parent.name, file.stem
        kind = "study" if kind == "studies" else kind
        module = importlib.import_module(".".join((str(__package__), *file.relative_to(HERE).with_suffix("").parts)))
        own = [
            c
            for c in vars(module).values()
            if inspect.isclass(c) and issubclass(c, Method) and c.__module__ == module.__name__
        ]
        found += [Card(stem.rstrip("_"), kind, c) for c in own]
    return tuple(found)


def names(kind: str) -> list[str]:
    """Return the names of all methods of a kind."""
    return [c.name for c in cards() if c.kind == kind]


def find(kind: str, name: str) -> type[Method]:
    """Return the class of the method `name` of `kind`.

    Raises:
        ResproutError: unknown; the message has the nearest names.
    """
    for card in cards():
        if card.kind == kind and card.name == name:
            return card.method
    raise nearest(name, names(kind), kind)


def make(kind: str, method: str | Method) -> Any:
    """Return `method` itself, or the one of that name with its defaults.

    Raises:
        ResproutError: unknown, or one that needs arguments.
    """
    if isinstance(method, Method):
        return method
    cls = find(kind, method)
    try:
        return cls()
    except TypeError as error:
        raise ResproutError(
            f"{kind} {method!r} needs arguments: pass {cls.__name__}(...) instead of its name"
        ) from error
