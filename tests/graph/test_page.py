"""docs/structure.md is true: its code runs in the order of the page, and prints what stands there. So is the README's part."""

import contextlib
import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import zoo

import resprout as rs

PAGE = Path(__file__).parents[2] / "docs" / "structure.md"


def blocks() -> list[tuple[str, str]]:
    """Each block of Python, and what the page says it prints ("" where nothing stands below it)."""
    return re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE.read_text(), re.S)


def test_the_code_of_the_page_runs_and_prints_what_stands_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(blocks()) == 7
    for code, said in blocks():
        if "transformers" in code:
            pytest.importorskip("transformers")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, PAGE.name, "exec"), names)
        if said:
            assert out.getvalue() == said
        else:
            assert "False" not in out.getvalue()


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (PAGE.parents[1] / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "rs.gain" in b)
    model, x = zoo.OURS["digits_cnn"]()
    names: dict[str, Any] = {"rs": rs, "model": model, "dense": copy.deepcopy(model), "x": x}
    exec(compile(code, "README.md", "exec"), names)
    assert "multiply-adds" in capsys.readouterr().out
    assert names["masks"].alive > rs.Masks.of(names["small"]).alive
