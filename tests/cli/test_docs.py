"""What the pages show is true: their code runs, and README and guide show the same file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to-add-a-method.md"


def blocks(page: Path, language: str = "python") -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def test_the_guide_followed_to_the_letter_adds_a_method(tmp_path):
    """Its file where it says, its test where it says, in a copy of the package; then the contract and the commands."""
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "_native.*"))
    file = re.search(r"^`(src/\S+/signed_magnitude.py)`:$", GUIDE.read_text(), re.M)
    place = re.search(r"golden vector .* in `(\S+)`:$", GUIDE.read_text(), re.M)
    assert file
    assert place
    method, test = blocks(GUIDE)
    (tmp_path / file[1]).write_text(method)
    (tmp_path / place[1]).write_text(test)

    def run(*words: str) -> str:
        space = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=space, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tests = (place[1], "tests/test_contract.py", "tests/test_imports.py")
    passed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "signed_magnitude", *tests)
    assert int(re.search(r"(\d+) passed", passed)[1]) >= 5  # pyright: ignore[reportOptionalSubscript]
    commands = re.findall(r"^\$ resprout (.*)$", "".join(blocks(GUIDE, "console")), re.M)
    assert commands
    for command in commands:
        assert "Deconstructing Lottery Tickets" in run("-m", "resprout", *command.split())
    assert "signed_magnitude" in run("-m", "resprout", "list", "--markdown")


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


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("zensical", reason="needs zensical: make test installs it")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = sorted((tmp_path / "build" / "site").glob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(r'(?:src|href)="(https?://[^"]+)"[^>]*(?:rel="stylesheet"|></script>)', page.read_text())
        assert not loaded, f"{page.name} needs the network: {loaded}"


def test_tables_from_results_are_current():
    script = ROOT / "benchmarks" / "tables.py"
    said = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert said.returncode == 0, f"{said.stdout}: run `make docs`"
