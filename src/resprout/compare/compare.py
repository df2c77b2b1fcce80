"""`compare`: every arm at every budget with every seed under one training budget; resumable; one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import find
from ..core import granularity as granularities
from ..core import store
from ..core.budget import Budget
from ..core.errors import CheckpointError, ResproutError, check_sparsity, nearest
from ..deploy import encoding
from .arms import CONTROLS, Arm, parse
from .cell import Cell, Settings
from .cluster import Cluster
from .engine import Engine, Local, Report, execute
from .table import Line, summary, tidy, write

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came out; kept in its folder, where further arms, budgets and seeds join it.

    Attributes:
        folder: with `table.parquet`, `table.csv`, `compare.json` and the cells.
        cells: all that were asked for, in order.
        baseline: the arm that others are compared with.
        failed: title of a cell -> what went wrong.
    """

    folder: Path
    cells: tuple[Cell, ...]
    baseline: str
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: a row for every cell that has finished."""
        return tidy(self.cells, self.folder)

    @property
    def lines(self) -> list[Line]:
        """Its summary: a line for every arm and budget."""
        return summary(self.cells, self.folder, self.baseline)

    def save(self, command: str = "") -> None:
        """Write what was asked for, so that `read` finds it."""
        arms = list(dict.fromkeys(c.arm.label for c in self.cells if c.arm))
        facts: dict[str, Any] = {"settings": dataclasses.asdict(self.cells[0].settings), "arms": arms}
        facts |= {"budgets": list(dict.fromkeys(c.budget for c in self.cells if c.arm))}
        facts |= {"seeds": sorted({c.seed for c in self.cells}), "baseline": self.baseline, "failed": self.failed}
        store.write(self.folder / "compare.json", json.dumps(facts | {"command": command}, indent=1).encode())

    @classmethod
    def read(cls, folder: str | Path) -> Comparison:
        """Read the comparison that was last asked for in a folder.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        file = Path(folder) / "compare.json"
        try:
            facts = json.loads(file.read_text())
            settings, arms = Settings(**facts["settings"]), [parse(a) for a in facts["arms"]]
            cells = plan(settings, arms, facts["budgets"], facts["seeds"])
            return cls(Path(folder), tuple(cells), facts["baseline"], facts["failed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} holds no comparison ({error!r})") from error


def plan(settings: Settings, arms: Sequence[Arm], budgets: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return all cells, the first seed of everything before the second of anything: a stopped comparison is of use, too."""
    return [
        Cell(settings, arm, budget, seed)
        for seed in seeds
        for budget, arm in [("", None), *((b, a) for b in budgets for a in arms)]
    ]


def compare(
    arms: Sequence[str],
    *,
    sparsity: Sequence[float] = (),
    budget: Sequence[str] = (),
    task: str = "digits",
    model: str = "digits_cnn",
    data: str | Path | None = None,
    weights: str | Path | None = None,
    epochs: float = 8,
    dense_epochs: float = 0,
    seeds: int = 3,
    controls: Sequence[str] = (),
    baseline: str | None = None,
    granularity: str = "weight",
    values: str = "fp16",
    precision: str = "auto",
    cap: float = 4.0,
    engine: str | Engine = "local",
    jobs: int | None = None,
    threads: int = 1,
    out: str | Path | None = None,
    command: str = "",
    report: Report | None = None,
) -> Comparison:
    """Run every arm at every budget with every seed, each for the same number of optimizer steps, and tell who wins.

    Started again it goes on: finished cells are never run twice, and one that was killed resumes at its checkpoint.

    Args:
        arms: recipes such as "one_way" or "one_way(lr=0.05)"; a score or an allocation stands for `one_way` with it, a rule
            for `sparse_training` with it; controls such as "scratch(one_way)".
        sparsity: fractions of weights (or units) that are zero.
        budget: further budgets, as in `fit`: "16KiB", "5M macs".
        task: digits, cifar10, or "file.py:function".
        model: network, by the name of its function in resprout.models, or "file.py:function".
        data: folder of the task's data.
        weights: safetensors with the trained dense network; without, every seed trains its own for `dense_epochs`.
        epochs: training budget of every arm, from the dense network on.
        dense_epochs: training of the dense network.
        seeds: how many; they decide data order and random choices, and without `weights` the dense network.
        controls: "scratch", "scratch_compute", "shuffled", "small", of every recipe; "all" is all of them.
        baseline: the arm that others are compared with; default "one_way", or the first.
        granularity: what is cut: "weight", "block:4x1", "channel", "head" or "layer".
        values: the type of the weights in the file: "fp32", "fp16", "int8" or "int4".
        precision: of training: "fp32", "bf16" or "auto".
        cap: the most that the control "scratch_compute" may train, in times the usual.
        engine: "local" (processes of this machine), "ray" (a cluster), or one of your own.
        jobs: cells at a time; default one a core. With "ray" the cluster decides.
        threads: of each cell.
        out: folder of the comparison; default comparisons/TASK-MODEL.
        command: noted for people.
        report: called now and then, see `engine.execute`.

    Raises:
        ResproutError: bad arguments, with the remedy. What goes wrong in a cell is in the result's `failed`.
    """
    budgets = [f"{check_sparsity(s):g}" for s in sparsity] + [str(Budget.parse(b)) for b in budget]
    if not arms or not budgets:
        raise ResproutError("compare needs arms and at least one budget: sparsity=(0.9, 0.98) or budget=('16KiB',)")
    if seeds < 1:
        raise ResproutError(f"seeds must be at least 1, got {seeds}")
    if not epochs > 0 or dense_epochs < 0:
        raise ResproutError(f"epochs must be above 0 and dense_epochs not below, got {epochs:g} and {dense_epochs:g}")
    pretrained = model.startswith(find.HUB)
    if weights is None and not dense_epochs and not pretrained:
        raise ResproutError("without weights= of a trained network, dense_epochs= must be above 0")
    if values not in encoding.VALUES:
        raise nearest(values, encoding.VALUES, "values")
    granularities.parse(granularity)
    chosen = _arms(arms, controls)
    labels = [a.label for a in chosen]
    if pretrained and any(a.control for a in chosen):
        raise ResproutError(f"controls begin with random weights, and {model} has its own; leave them out")
    first = baseline or ("one_way" if "one_way" in labels else labels[0])
    if first not in labels:
        raise nearest(first, labels, "baseline")
    place = None if data is None else str(Path(data).resolve())
    about = repr(find.task(task, None if data is None else Path(data), model))  # before any process is started
    find.network(model, None if weights is None else Path(weights))
    settings = Settings(
        task, model, place, None if weights is None else str(Path(weights).resolve()), float(epochs), float(dense_epochs),
        granularity, values, precision, about=about, cap=float(cap),
    )  # fmt: skip
    folder = Path(out) if out is not None else Path("comparisons") / "-".join(_plain(n) for n in (task, model))
    cells = tuple(plan(settings, chosen, budgets, range(seeds)))
    Comparison(folder, cells, first).save(command)
    where = engine if isinstance(engine, Engine) else _engine(engine, jobs, threads)
    failed = execute(cells, folder, where, report)
    done = Comparison(folder, cells, first, failed)
    done.save(command)
    write(done.rows, folder)
    return done


def _arms(arms: Sequence[str], controls: Sequence[str]) -> list[Arm]:
    """The arms, each once, and the controls of every recipe among them."""
    chosen = {arm.label: arm for arm in map(parse, arms)}
    for control in CONTROLS if "all" in controls else controls:
        if control not in CONTROLS:
            raise nearest(control, [*CONTROLS, "all"], "control")
        for arm in [a for a in chosen.values() if not a.control]:
            made = parse(f"{control}({arm.label})")
            chosen.setdefault(made.label, made)
    missing = [a.of.label for a in chosen.values() if a.of is not None and a.of.label not in chosen]
    for label in missing:
        chosen[label] = parse(label)
    return list(chosen.values())


def _engine(name: str, jobs: int | None, threads: int) -> Engine:
    if name == "ray":
        return Cluster(threads=threads)
    if name == "local":
        return Local(jobs, threads)
    raise nearest(name, ENGINES, "engine")


def _plain(name: str) -> str:
    return Path(name.rpartition(":")[2]).name
