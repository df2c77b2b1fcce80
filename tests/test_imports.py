"""Imports point inwards: core <- numerics <- everything <- the top; siblings do not know each other."""

import ast
from pathlib import Path

import pytest

import resprout

ROOT = Path(resprout.__file__).parent
TOP = {"__init__", "api", "catalog", "find", "fit", "cli", "integrations"}  # may use everything
MAY_USE_METHODS = {"recipe", "rule", "search", "recover", "remove", "studies"}
MAY_USE_ALL = {"cli", "compare", "layerwise", "studies", "report", "integrations"}
THINGS = {"samples", "laws", "deltas", "passages", "federated", "reinforcement"}  # beside methods/; no sibling is used


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py"))


def imported(file: Path) -> set[tuple[str, ...]]:
    """The modules of ours that a file imports anywhere in it, as paths from `resprout`."""
    here = file.relative_to(ROOT).with_suffix("").parts
    package = here[:-1]  # for an __init__.py too, whose last part is "__init__"
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level == 0:
                if module[:1] != ("resprout",):
                    continue
                base = module[1:]
            else:
                base = package[: len(package) - node.level + 1] + module
            names = [alias.name for alias in node.names]
            found |= {(*base, n) if (ROOT.joinpath(*base, n)).is_dir() or is_file(*base, n) else base for n in names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = tuple(alias.name.split("."))
                if parts[0] == "resprout":
                    found.add(parts[1:])
    return found


def is_file(*parts: str) -> bool:
    return bool(parts) and ROOT.joinpath(*parts).with_suffix(".py").is_file()


def allowed(here: tuple[str, ...], there: tuple[str, ...]) -> bool:
    """Whether the file `here` may import `there`."""
    mine, its = here[0], there[0] if there else "__init__"
    if len(here) == 1 or mine in MAY_USE_ALL:
        return True
    if its == mine != "methods":
        return True
    measures = (("methods", "evaluate"), ("tasks", "evaluate"))
    if its in ("core", "numerics") or (mine, its) in (("deploy", "graph"), *measures):
        return True  # a device gets what the graph has made, methods and tasks may measure; none looks back
    if mine in THINGS:
        return its in ("methods", "evaluate", "deploy")
    if mine == "methods" and its == "methods":
        kind, other = (*here[1:2], ""), (*there[1:2], "")
        return kind[0] == other[0] or kind[0] in MAY_USE_METHODS
    return False


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_inwards(file):
    here = file.relative_to(ROOT).with_suffix("").parts
    wrong = [".".join(there) for there in imported(file) if not allowed(here, there)]
    assert not wrong, f"{'/'.join(here)} may not import {wrong}"


def test_the_core_imports_nothing_else_of_ours():
    core = [f for f in files() if f.relative_to(ROOT).parts[0] == "core"]
    assert len(core) > 10
    for file in core:
        assert all(there[:1] == ("core",) for there in imported(file)), file


def test_this_very_test_sees_imports():
    assert ("core", "masks") in imported(ROOT / "core" / "hold.py")
    assert ("deploy", "encoding") in imported(ROOT / "deploy" / "bytes.py")
    assert ("catalog",) in imported(ROOT / "api.py")
    assert ("core", "kinds") in imported(ROOT / "methods" / "score" / "magnitude.py")
    assert not allowed(("core", "masks"), ("tasks", "arrays"))
    assert not allowed(("numerics", "kfac"), ("methods", "score", "x"))
    assert not allowed(("models", "vgg"), ("tasks", "arrays"))
    assert not allowed(("methods", "score", "x"), ("methods", "allocate", "y"))
    assert not allowed(("methods", "score", "x"), ("catalog",))
    assert allowed(("methods", "recipe", "x"), ("methods", "score", "y"))
    assert not allowed(("methods", "recipe", "x"), ("api",))
    assert not allowed(("samples", "x"), ("deltas", "y"))
    assert not allowed(("methods", "recipe", "x"), ("samples", "y"))
