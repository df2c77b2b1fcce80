"""A few plain networks, so that nothing needs a download: one function each, found by its name."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from torch import nn

from ..core.errors import nearest


def builders() -> dict[str, Callable[[], nn.Module]]:
    """Return name -> function for every public function of the files beside this one."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = value
    return found


def build(name: str) -> nn.Module:
    """Return a new network with random weights.

    Raises:
        ResproutError: an unknown name, with the nearest ones.
    """
    known = builders()
    if name not in known:
        raise nearest(name, known, "model")
    return known[name]()
