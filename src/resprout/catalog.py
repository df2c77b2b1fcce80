"""Methods by name, without a registry: a file's path is its name, and the folders are walked.

`score/magnitude.py` is the score "magnitude", `studies/pie.py` the study "pie"; a trailing underscore
(`allocate/global_.py`) is dropped.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .core.errors import ResproutError, nearest
from .core.kinds import Method, Recipe

HERE = Path(__file__).parent
PACKAGES = {  # folders beside methods/, each of one kind: what is pruned is no part of a network, or it is a question
    "studies": "study",
    "samples": "sample",
    "laws": "law",
    "deltas": "delta",
    "passages": "passage",
    "tokens": "token",
    "activations": "activation",
    "dynamic": "dynamic",
    "federated": "federated",
    "reinforcement": "reinforcement",
    "evaluate/audit": "audit",
}


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
    files = sorted(HERE.glob("methods/*/[!_]*.py"))
    files += [file for folder in PACKAGES for file in sorted(HERE.glob(f"{folder}/[!_]*.py"))]
    for file in files:
        kind, stem = PACKAGES.get(file.parent.name, file.parent.name), file.stem
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
        beside = kind == "recipe" and issubclass(card.method, Recipe)  # one whose setting has a folder of its own
        if (card.kind == kind or beside) and card.name == name:
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


def audits(asked: str | Sequence[str | Method]) -> dict[str, Any]:
    """Return name -> audit of "robustness,privacy", or of a list of names and objects.

    Raises:
        ResproutError: an unknown name; or one of these twice.
    """
    wishes = [w.strip() for w in asked.split(",") if w.strip()] if isinstance(asked, str) else asked
    made = [make("audit", wish) for wish in wishes]
    found = {type(audit).__module__.rpartition(".")[2]: audit for audit in made}
    if len(found) < len(made):
        raise ResproutError(f"each audit once, got {', '.join(map(str, wishes))}")
    return found
