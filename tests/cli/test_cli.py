"""The command line as a user meets it: in this process through typer's runner, a tiny fit included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import resprout as rs
from resprout import catalog, find, models
from resprout.api import prune
from resprout.cli import app
from resprout.cli.fit import budgets
from resprout.cli.flags import helps
from resprout.cli.journey import describe
from resprout.core.errors import BudgetError, ResproutError
from resprout.core.train import Optimizer
from resprout.methods.allocate.dlp import Dlp
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.bidirectional_iterative import BidirectionalIterative
from resprout.methods.recipe.bidirectional_oneshot import BidirectionalOneshot
from resprout.methods.recipe.one_way import OneWay
from resprout.methods.score.newton_gain import NewtonGain

RUNNER = CliRunner()
PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def run(*words: object, code: int = 0) -> str:
    """Run a command, check its exit code, and return all it printed."""
    result = RUNNER.invoke(app, [str(w) for w in words])
    assert result.exit_code == code, f"{words}: {result.output}\n{result.exception!r}"
    return result.output


def fails(*words: object) -> str:
    """Run a command that must end with one line of error and no traceback."""
    said = run(*words, code=2)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in said
    return lines[0]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks on a busy machine: threads would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_json_has_a_line_for_every_method():
    rows = json.loads(run("list", "--json"))
    assert len(rows) == len(catalog.cards())
    assert all(set(row) == {"name", "kind", "key", "fidelity", "citation"} for row in rows)
    assert {row["fidelity"] for row in rows} <= {"paper-checked", "identity-checked", "smoke-tested"}
    assert {row["key"] for row in rows} >= {"lamp"}
    assert all(row["citation"] for row in rows)


def test_a_method_takes_methods_as_arguments():
    made = find.method("recipe", "one_way(lr=0.05, score=newton_gain(damping=0.5), allocate=global)")
    assert made == OneWay(lr=0.05, score=NewtonGain(damping=0.5), allocate=Global())
    made = find.method("recipe", "bidirectional_oneshot(path=bidirectional_iterative(allocator=global))")
    assert made == BidirectionalOneshot(path=BidirectionalIterative(allocator="global"))
    assert made == find.method("recipe", "bidirectional_oneshot(path=bidirectional_iterative(allocator='global'))")
    assert find.method("allocate", "dlp(stat=mean)") == Dlp(stat="mean")
    adam = Optimizer("adamw", decay=0.1)
    assert find.method("recipe", "one_way(optimizer=adamw)") == OneWay(optimizer=Optimizer("adamw"))
    given = "one_way(lr=1e-3, optimizer=optimizer(kind=adamw, decay=0.1))"
    assert find.method("recipe", given) == OneWay(lr=1e-3, optimizer=adam)
    with pytest.raises(ResproutError, match="decay"):
        find.method("recipe", "one_way(optimizer=optimizer(kind=adamw, decai=0.1))")


def test_the_version():
    said = subprocess.run([sys.executable, "-m", "resprout", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["resprout", rs.__version__]


def test_python_dash_m():
    said = subprocess.run([sys.executable, "-m", "resprout", "--help"], capture_output=True, text=True, check=True)
    assert "fit" in said.stdout


def test_list_takes_one_kind_and_names_the_nearest_for_another():
    assert "magnitude" in run("list", "--kind", "score")
    assert "lamp" not in run("list", "--kind", "score")
    assert "'score'" in fails("list", "--kind", "scores")


def test_page_of_methods_is_current():
    assert PAGE.read_text() == run("list", "--markdown"), "docs/methods.md is stale: run `make docs`"


def test_show_gives_card_with_fields_and_example():
    said = run("show", "lamp")
    assert "2010.07611" in said
    assert "paper-checked, key lamp" in said
    assert "resprout prune" in said
    assert "damping" in run("show", "newton_gain")
    assert "'magnitude'" in fails("show", "magnitud")


def test_every_method_has_a_card():
    for card in catalog.cards():
        assert card.citation[:20] in run("show", f"{card.kind}/{card.name}")


def test_prune_flags_come_from_the_library_function():
    texts, said = helps(prune), run("prune", "--help")
    assert texts["score"].startswith("what a weight is worth")
    for flag in ("--sparsity", "--score", "--allocate", "--granularity", "--floor", "--targets", "--ignore", "--seed"):
        assert flag in said


def test_prune_regrow_inspect(there: Path):
    dense, cut, grown = (there / f"{name}.safetensors" for name in ("dense", "cut", "grown"))
    torch.manual_seed(3)
    save_file(models.build("digits_cnn").state_dict(), dense)
    said = run("prune", "--weights", dense, "--sparsity", 0.9, "--out", cut, "--ignore", "0")
    assert "wrote" in said
    size = cut.stat().st_size
    assert f"{size:,} bytes" in said
    said = run("regrow", "--weights", cut, "--anchor", dense, "--sparsity", 0.8, "--score", "magnitude", "--fill",
               "anchor", "--out", grown)  # fmt: skip
    assert "19,514 of 97,568 weights alive" in said
    assert grown.stat().st_size > size
    small = rs.load(cut, rs.load(cut, models.build("digits_cnn")))
    large = rs.load(grown, models.build("digits_cnn"))
    assert rs.Masks.of(small) <= rs.Masks.of(large)
    assert "checksum sound" in run("inspect", grown)
    said = run("inspect", grown, "--model", "digits_cnn")
    assert "12.weight" in said
    assert "19,514 weights alive" in said
    assert "plain safetensors" in run("inspect", dense)
    assert "another model" in fails("inspect", grown, "--model", "resnet20")


def test_prune_takes_scores_that_look_at_data(there: Path):
    pytest.importorskip("sklearn")
    said = run("prune", "--sparsity", 0.9, "--score", "newton_gain(damping=0.5)", "--task", "digits")
    assert "validation accuracy" in said
    assert "data" in fails("prune", "--sparsity", 0.9, "--score", "fisher")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prune", "--sparsity", "98"), "did you mean 0.98?"),
        (("prune", "--sparsity", "2"), "did you mean 0.98"),
        (("prune", "--sparsity", "0.9", "--score", "magnitud"), "'magnitude'"),
        (("prune", "--sparsity", "0.9", "--allocate", "lamb"), "'lamp'"),
        (("prune", "--sparsity", "0.9", "--score", "newton_gain(damp=1)"), "'damping'"),
        (("prune", "--sparsity", "0.9", "--score", "newton_gain(open('x'))"), "cannot read score"),
        (("prune", "--sparsity", "0.9", "--score", "newton_gain(damping=open('x'))"), "cannot read score"),
        (("fit", "--budget", "0.9", "--recipe", "one_way(score=tailor)"), "did you mean 'taylor'"),
        (("fit", "--budget", "0.9", "--recipe", "one_way(lr=taylor)"), "plain values or names of methods"),
        (("prune", "--sparsity", "0.9", "--model", "resnet21"), "'resnet20'"),
        (("prune", "--sparsity", "0.9", "--ignore", "*"), "nothing to prune"),
        (("prune", "--sparsity", "0.9", "--values", "fp17"), "'fp16'"),
        (("prune", "--sparsity", "0.9", "--weights", "absent.safetensors"), "absent.safetensors"),
        (("prune", "--sparsity", "0.9", "--data", "there"), "--task"),
        (("fit", "--budget", "98"), "did you mean 0.98?"),
        (("fit", "--budget", "eight"), "cannot read budget"),
        (("fit", "--budget", "8KiB,16KiB"), "--frontier"),
        (("fit", "--budget", "8KiB", "--frontier", "8KiB"), "not both"),
        (("fit", "--frontier", "8KiB,,16KiB"), "empty budget"),
        (("fit", "--recipe", "one_wey"), "'one_way'"),
        (("fit", "--task", "digit"), "'digits'"),
        (("fit", "--task", "cifar10", "--data", "nowhere"), "train-*.parquet"),
        (("fit", "--precision", "fp8"), "precision"),
        (("report", "nowhere"), "no result.json"),
        (("inspect", "nowhere.safetensors"), "cannot be read"),
    ],
)
def test_bad_input_is_one_clear_line(words: tuple[str, ...], says: str, there: Path):
    assert says in fails(*words, *(("--out", "out") if words[0] == "fit" else ()))
    assert not list(there.rglob("*.safetensors")), "nothing is half-written"


def test_weights_that_do_not_fit(there: Path):
    state = models.build("digits_cnn").state_dict()
    for name, change, says in [
        ("missing", {"0.weight": None}, "it lacks 0.weight (1 in all)"),
        ("foreign", {"more": torch.zeros(1)}, "it has foreign more"),
        ("shape", {"0.weight": torch.zeros(32, 1, 5, 5)}, "(32, 1, 5, 5), not (32, 1, 3, 3)"),
        ("nan", {"0.weight": torch.full((32, 1, 3, 3), float("nan"))}, "NaN"),
    ]:
        save_file({k: v for k, v in {**state, **change}.items() if v is not None}, f"{name}.safetensors")
        assert says in fails("prune", "--sparsity", 0.9, "--weights", f"{name}.safetensors")
    save_file({f"module.{k}": v for k, v in state.items()}, "prefix.safetensors")
    assert "strip the prefix 'module.'" in fails("prune", "--sparsity", 0.9, "--weights", "prefix.safetensors")
    Path("old.pth").write_bytes(b"anything")
    assert "convert it once" in fails("prune", "--sparsity", 0.9, "--weights", "old.pth")
    Path("cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    assert "cannot be read" in fails("prune", "--sparsity", 0.9, "--weights", "cut.safetensors")


def test_half_precision_and_missing_counters_are_fine(there: Path):
    state = models.build("digits_cnn").state_dict()
    kept = {k: v.half() if v.is_floating_point() else v for k, v in state.items() if "num_batches" not in k}
    save_file(kept, "half.safetensors")
    run("prune", "--sparsity", 0.5, "--weights", "half.safetensors")


def test_tiny_fit_prints_journey_and_paths_and_is_kept(there: Path):
    pytest.importorskip("sklearn")
    words = ("fit", "--epochs", 1, "--dense-epochs", 1, "--no-curve", "--budget", "16KiB", "--out", there / "out")
    said = run(*words)
    for word in ("sparsity", "weights alive", "validation", "arrived at 16KiB", "dense", "asked", "achieved"):
        assert word in said
    written = [Path(line.removeprefix("wrote ")) for line in said.splitlines() if line.startswith("wrote ")]
    assert {p.suffix for p in written} >= {".json", ".safetensors"}
    assert all(p.exists() for p in written)
    files = [p for p in written if p.suffix == ".safetensors"]
    assert files[0].stat().st_size <= 16 * 1024
    result = rs.Result.read(written[0].parent)
    assert result.bytes == files[0].stat().st_size
    again = run(*words)
    assert "kept" in again
    assert again.splitlines()[-1] == said.splitlines()[-1]
    if any(p.suffix == ".png" for p in written):
        assert "picture.svg" in run("report", written[0].parent)


def test_budgets_by_default_and_several():
    assert [str(b) for b in budgets(None, None) or ()] == ["8KiB"]
    assert budgets(None, None, "rp2040") is None
    assert [str(b) for b in budgets(None, "16KiB, 32KiB") or ()] == ["16KiB", "32KiB"]
    assert [str(b) for b in budgets(None, "16KiB, 1ms; 32KiB") or ()] == ["16KiB, 1ms", "32KiB"]
    assert [str(b) for b in budgets("16KiB, 1ms", None) or ()] == ["16KiB, 1ms"]
    with pytest.raises(BudgetError):
        budgets("", "")


def test_steps_in_words():
    assert describe({"step": "Prune", "died": 1200, "reborn": 0}) == "prune  −1,200"
    assert describe({"step": "Meet", "asked": "8KiB", "died": 0, "reborn": 5}) == "meet 8KiB  +5"
    assert describe({"step": "Arrive", "budget": "8KiB"}) == "arrived at 8KiB"
    assert describe({"step": "Search", "cliff": None}) == "one-way curve: no cliff found"
    assert describe({"step": "Rewind", "to": "start"}) == "rewind to start"


def test_fit_leaves_alone_what_it_is_told_to(tmp_path):
    run("fit", "--budget", "0.9", "--epochs", "0.2", "--dense-epochs", "0.2", "--no-curve", "--ignore", "12.*",
        "--out", str(tmp_path))  # fmt: skip
    result = json.loads(next(tmp_path.glob("*/result.json")).read_text())
    names = [n for r in result["journal"] if "counts" in r for n in r["counts"]]
    assert names
    assert not any(n.startswith("12.") for n in names)
