"""What the pages show is true: their code runs, and README and guide show the same file."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import resprout as rs

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to-add-a-method.md"


def blocks(page: Path, language: str = "python") -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def test_the_method_of_the_guide_works_and_passes_its_own_test(monkeypatch):
    method, test = blocks(GUIDE)
    space: dict[str, Any] = {
        "__name__": "resprout.methods.score.signed_magnitude",
        "__package__": "resprout.methods.score",
    }
    exec(compile(method, "signed_magnitude.py", "exec"), space)
    score = space["SignedMagnitude"]()
    assert eval(repr(score), space) == score
    monkeypatch.setattr(rs, "prune", lambda *a, prune=rs.prune, **k: prune(*a, **k | {"score": score}))
    names: dict[str, Any] = {"torch": torch, "rs": rs}
    exec(compile(test, "test_scores.py", "exec"), names)
    names["test_signed_magnitude_orders_by_sign"]()


def test_readme_shows_the_file_of_the_guide():
    def words(code: str) -> str:
        return " ".join(code.split())

    assert words(blocks(GUIDE)[0]) in [words(code) for code in blocks(ROOT / "README.md")]


def test_readme_opens_with_two_commands_and_its_links_exist():
    page = (ROOT / "README.md").read_text()
    assert (
        page.index("make demo") < page.index("make test") < page.index("docs/images/demo.png") < page.index("rs.fit(")
    )
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page):
        assert (ROOT / link).exists(), link


def test_tables_from_results_are_current():
    script = ROOT / "benchmarks" / "tables.py"
    said = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert said.returncode == 0, f"{said.stdout}: run `make docs`"
