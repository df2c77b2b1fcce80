"""Is complexity required? One global ranking by magnitude against other allocations and criteria; and how layers collapse.

Gupta, Camci, Keneta, Vaidyanathan, Kanodia, Foo, Wu, Lin: "Is Complexity Required for Neural Network Pruning? A Case Study
on Global Magnitude Pruning", arXiv:2209.14624. For the collapse a layer's weights are made small and the batch norm behind it is
adapted, so that the network computes what it did: the ranking sees the scale, and training starts from the network as it was.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import catalog, find
from ..api import prune
from ..compare.cell import Cell
from ..compare.compare import Comparison, compare
from ..compare.here import engine
from ..compare.statistics import Difference, paired, spread
from ..compare.train import train
from ..core.errors import LayerDied, ResproutError, check_sparsity
from ..core.kinds import Fidelity
from ..core.masks import Masks
from ..core.probe import Probe
from ..core.run import mix
from ..core.task import Task
from ..methods.score._norms import next_norms
from ..report.figure import Figure, bars, lines
from ._kept import kept
from ._study import Finding, Study, Tell, silent

Row = Mapping[str, Any]


@dataclass(frozen=True)
class GlobalMp(Study):
    """Compare global magnitude pruning with others at equal steps; then empty a layer with it, and keep it from that.

    Attributes:
        task, model, data, weights: as in `compare`.
        others: allocations (with magnitude), scores (with one global ranking), or arms as in `compare`.
        sparsity: where they are compared.
        mode: of `one_way`: "oneshot", "iterative" or "gradual".
        epochs, dense_epochs, seeds: as in `compare`.
        layer: the weight that is made small; default the second that a batch norm follows.
        factor: how small.
        collapse: sparsity at which that network is cut.
        cures: allocations that it is cut with besides "global"; the first is the one that the verdict is about.
        lr: of the training after that cut.
        jobs: cells at a time; 1 runs them in this process.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    others: tuple[str, ...] = ("uniform", "erk", "lamp", "taylor", "sparse_training(rule=rigl(every=10))")
    sparsity: tuple[float, ...] = (0.95, 0.98)
    mode: str = "oneshot"
    epochs: float = 8
    dense_epochs: float = 10
    seeds: int = 5
    layer: str | None = None
    factor: float = 0.03
    collapse: float = 0.95
    cures: tuple[str, ...] = ("global_min", "lamp", "uniform")
    lr: float = 0.1
    jobs: int = 1
    claim: ClassVar[str] = (
        "Global magnitude pruning, the simplest there is, exceeds more complex pruners at equal training; a minimum threshold "
        "of weights per layer keeps layers from collapsing."
    )
    key: ClassVar[str | None] = "global-mp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: nothing to compare with, a layer that no batch norm follows, or a cell that fails.
        """
        began = time.monotonic()
        check_sparsity(self.collapse, "collapse")
        if not self.others or not self.cures:
            raise ResproutError(
                "others= and cures= name what global magnitude pruning is compared with, one each at least"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LayerDied)  # it is what this study is about
            made = self._compared(folder, tell)
            cut = self._collapsed(folder, made, tell)
        return dataclasses.replace(self._found(made, cut), seconds=time.monotonic() - began)

    def _compared(self, folder: Path, tell: Tell) -> Comparison:
        labels = [self._label("global"), *map(self._label, self.others)]
        made = compare(
            labels, sparsity=self.sparsity, task=self.task, model=self.model, data=self.data, weights=self.weights,
            epochs=self.epochs, dense_epochs=0 if self.weights else self.dense_epochs, seeds=self.seeds, baseline=labels[0],
            engine=engine(self.jobs), out=folder / "compare",
            report=lambda now: tell("methods at equal steps", 0.7 * now["done"] / now["total"]),
        )  # fmt: skip
        if made.failed:
            title, why = next(iter(made.failed.items()))
            raise ResproutError(f"{len(made.failed)} cells failed; {title}: {why}")
        return made

    def _label(self, name: str) -> str:
        """The arm that a name stands for; without a floor, for it would keep layers from collapsing."""
        if name in catalog.names("allocate"):
            return f"one_way(mode='{self.mode}', score=magnitude, allocate={name}, floor=0)"
        if name in catalog.names("score"):
            return f"one_way(mode='{self.mode}', score={name}, allocate=global, floor=0)"
        return name

    def _collapsed(self, folder: Path, made: Comparison, tell: Tell) -> list[dict[str, Any]]:
        """What each allocation makes of a network with a layer of small weights."""
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        plan = [(seed, way) for seed in range(self.seeds) for way in ("global", *self.cures)]
        rows = []
        for i, (seed, way) in enumerate(plan):
            tell(f"a layer of small weights, cut by {way}, seed {seed}", 0.7 + 0.3 * i / len(plan))
            cell = next(c for c in made.cells if c.arm is None and c.seed == seed)
            what: dict[str, Any] = {
                "dense": cell.key,
                "way": way,
                "seed": seed,
                "layer": self.layer,
                "factor": self.factor,
            }
            what |= {"collapse": self.collapse, "epochs": self.epochs, "lr": self.lr}
            facts = kept(folder / "collapse", what, lambda c=cell, w=way: self._cut(c, folder / "compare", task, w))
            rows.append({"allocation": way, "seed": seed} | facts)
        return rows

    def _cut(self, cell: Cell, root: Path, task: Task, way: str) -> dict[str, Any]:
        model = find.network(self.model, cell.folder(root) / "dense.safetensors")
        layer = self.layer or second(model)
        small = made_small(model, layer, self.factor)
        facts = {"layer": layer, "validation": validation(task, model), "validation, small": validation(task, small)}
        masks = prune(small, self.collapse, allocate=way)
        steps = max(1, round(self.epochs * task.steps_per_epoch))
        run = train(model, task, steps, masks=masks, seed=mix(cell.seed, "collapse") % 2**31, lr=self.lr)
        facts |= {"sparsity": masks.sparsity, "alive in it": masks.counts[layer], "of": masks.sizes[layer]}
        return facts | {"layers emptied": emptied(masks), "test": run.evaluate("test")}

    def _found(self, made: Comparison, cut: Sequence[Row]) -> Finding:
        """The tables and the verdict."""
        first = self._label("global")
        level = 1 - 0.05 / len(self.others)  # so that all intervals hold together at 95 %
        gaps = {o: gap(made.rows, first, self._label(o), level) for o in self.others}
        against = [
            {"against": o, "global - it": g.mean, "low": g.low, "high": g.high, "seeds": g.seeds}
            for o, g in gaps.items()
        ]
        tests = {w: [100 * r["test"] for r in cut if r["allocation"] == w] for w in ("global", *self.cures)}
        cure = paired(tests[self.cures[0]], tests["global"])
        said = ", ".join(f"{g.mean:+.2f} [{g.low:+.2f}, {g.high:+.2f}] to {o}" for o, g in gaps.items())
        left = {w: [r["alive in it"] for r in cut if r["allocation"] == w] for w in tests}
        verdict = (
            f"At {' and '.join(f'{s:.0%}' for s in self.sparsity)} and equal steps global magnitude is, in points, {said} "
            f"({self.seeds} seed{'s' * (self.seeds != 1)}, intervals that hold together); of a layer with weights "
            f"{self.factor:g} times as large it keeps {_mean(left['global']):.0f}, {self.cures[0]} "
            f"{_mean(left[self.cures[0]]):.0f}, which is worth {cure.mean:+.1f} points [{cure.low:+.1f}, {cure.high:+.1f}]."
        )
        tables = {"Global magnitude against others": against, "At each sparsity": self._lines(made)}
        tables |= {"A layer of small weights": [_cured(w, cut) for w in tests], "Each cut of it": cut}
        return Finding(verdict, holds(gaps.values()), tables, self._figures(made, tests))

    def _lines(self, made: Comparison) -> list[dict[str, Any]]:
        names = {self._label(n): n for n in ("global", *self.others)}
        table = []
        for line in made.lines:
            cells = [c for c in made.cells if c.arm and c.arm.label == line.arm and c.budget == line.asked]
            gone = [_emptied(c.folder(made.folder)) for c in cells]
            deviation = line.test[1] if line.seeds > 1 else None
            facts = {"method": names[line.arm], "sparsity": line.sparsity, "test %": 100 * line.test[0]}
            facts |= {"std": None if deviation is None else 100 * deviation, "layers emptied": _mean(gone)}
            table.append(facts | {"steps": line.steps[1], "note": line.note})
        return table

    def _figures(self, made: Comparison, tests: Mapping[str, list[float]]) -> tuple[Figure, ...]:
        series: dict[str, Any] = {}
        for line in self._lines(made):
            own = series.setdefault(line["method"], {"x": [], "y": [], "spread": []})
            for axis, value in (("x", line["sparsity"]), ("y", line["test %"]), ("spread", line["std"] or 0.0)):
                own[axis].append(value)
        curve = lines(
            "Global magnitude and others at equal steps", series, "sparsity", "test accuracy (%)",
            words="Accuracy after the same number of training steps; standard deviation over seeds.",
        )  # fmt: skip
        deviations = [spread(t)[1] if len(t) > 1 else 0.0 for t in tests.values()]
        marks = {"after training": {"x": list(tests), "y": [_mean(t) for t in tests.values()], "spread": deviations}}
        cure = bars(
            "A layer of small weights", marks, "allocation", "test accuracy (%)",
            words="The same function with one layer's weights made small: what is left of it after a cut and training.",
        )  # fmt: skip
        return curve, cure


def second(model: nn.Module) -> str:
    """Return the second weight that a batch norm follows.

    Raises:
        ResproutError: there are not two.
    """
    found = [n for n, norm in next_norms(Probe(model)).items() if isinstance(model.get_submodule(norm), _BatchNorm)]
    if len(found) < 2:
        raise ResproutError(f"{type(model).__name__} has no two layers that a batch norm follows; choose another model")
    return found[1]


@torch.no_grad()
def made_small(model: nn.Module, layer: str, factor: float) -> nn.Module:
    """Return a copy that computes the same in evaluation mode, with `factor` times the weights of `layer`.

    Raises:
        ResproutError: no batch norm with running statistics follows it.
    """
    twin = copy.deepcopy(model)
    path = next_norms(Probe(twin)).get(layer)
    norm = None if path is None else twin.get_submodule(path)
    if not isinstance(norm, _BatchNorm) or norm.running_var is None or norm.running_mean is None:
        raise ResproutError(f"no batch norm with running statistics follows layer={layer!r}; name a weight before one")
    twin.get_parameter(layer).mul_(factor)
    bias = twin.get_submodule(layer.rpartition(".")[0]).bias
    if isinstance(bias, torch.Tensor):
        bias.mul_(factor)
    norm.running_mean.mul_(factor)
    norm.running_var.add_(norm.eps).mul_(factor**2).sub_(norm.eps).clamp_(min=0)
    return twin


def validation(task: Task, model: nn.Module) -> float:
    """Return accuracy on validation data, in evaluation mode."""
    return task.evaluate(model.eval(), "validation")[task.metric]


def emptied(masks: Masks) -> int:
    """Return how many tensors have no weight alive."""
    return sum(count == 0 for count in masks.counts.values())


def gap(rows: Sequence[Row], ours: str, theirs: str, level: float) -> Difference:
    """Return the difference of two arms in points: of every seed the mean over budgets, and over seeds its interval."""
    means = []
    for arm in (ours, theirs):
        by_seed: dict[int, list[float]] = {}
        for row in rows:
            if row["arm"] == arm:
                by_seed.setdefault(row["seed"], []).append(100 * row["test"])
        means.append([_mean(by_seed[s]) for s in sorted(by_seed)])
    return paired(*means, level=level)


def holds(gaps: Any) -> bool | None:
    """Whether global magnitude exceeds all others; False where one exceeds it, None where the intervals do not say."""
    found = list(gaps)
    if any(g.seeds < 2 for g in found):
        return None
    if any(g.verdict == "loss" for g in found):
        return False
    return True if all(g.verdict == "win" for g in found) else None


def _cured(way: str, cut: Sequence[Row]) -> dict[str, Any]:
    mine = [r for r in cut if r["allocation"] == way]
    names = ("sparsity", "alive in it", "of", "layers emptied", "validation", "validation, small", "test")
    return {"allocation": way} | {n: _mean([r[n] for r in mine]) for n in names}


def _emptied(folder: Path) -> int:
    """Of a finished cell, as it has noted them."""
    return sum(count == 0 for count in json.loads((folder / "detail.json").read_text())["counts"].values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
