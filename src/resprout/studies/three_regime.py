"""How long should a network be trained before it is pruned? Mode connectivity of two retrained copies says which way to go.

Zhou, Yang, Chang, Mahoney: "A Three-regime Model of Network Pruning", ICML 2023, arXiv:2305.18383. The temperature is set by
the epochs of dense training (few: hot), the load by the density. Here each number of epochs has a schedule of its own, where
the release stops one schedule early. The paper lowers the temperature as far as the line between its regimes II-A and II-B,
and gives no number for it: here it is lowered as long as there is no barrier, and where CKA counts as high only names regimes.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from .. import find
from ..api import prune
from ..compare.statistics import Difference, paired, spread
from ..compare.train import train
from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Fidelity
from ..core.run import mix
from ..core.store import load_tensors, save_tensors
from ..core.task import Task
from ..evaluate.connectivity import between, similarity
from ..evaluate.outputs import outputs
from ..report.figure import Figure, heat
from ._kept import kept
from ._study import Finding, Study, Tell, silent

HOTTER, COLDER = "shorter training", "as long or longer"
Cell = Mapping[str, Any]


def digits_mlp() -> nn.Sequential:
    """Return a perceptron for inputs of 64 numbers: 64-100-100-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )


@dataclass(frozen=True)
class ThreeRegime(Study):
    """Train for each number of epochs, prune to each density, retrain twice, and measure how the two are connected.

    Attributes:
        task, data: as in `compare`.
        model: a network; the default is a perceptron for digits.
        epochs: of dense training, rising: from hot to cold.
        densities: weights alive, rising.
        allocate: how dense each layer is: "uniform" or "lamp" in the paper.
        retrain: epochs of each retraining, from the same pruned network with another order of the data.
        lr: peak of every training.
        seeds: of everything.
        points: on the line between two networks.
        split: of the data whose errors are taken there.
        barrier: mc below minus this is a barrier.
        similar: CKA from here on counts as high, in the names of regimes.
    """

    task: str = "digits"
    data: str | None = None
    model: str = "resprout.studies.three_regime:digits_mlp"
    epochs: tuple[float, ...] = (2, 8, 32)
    densities: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    allocate: str = "lamp"
    retrain: float = 32
    lr: float = 0.1
    seeds: int = 5
    points: int = 11
    split: str = "train"
    barrier: float = 0.05
    similar: float = 0.9
    claim: ClassVar[str] = (
        "At low density short dense training wins, at high density long training, with a sharp transition; mode connectivity "
        "tells which, and following it improves the pruned network."
    )
    key: ClassVar[str | None] = "three-regime"
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __post_init__(self) -> None:
        for name in ("epochs", "densities"):
            values = getattr(self, name)
            if len(values) < 2 or sorted(set(values)) != list(values) or not values[0] > 0:
                raise ResproutError(f"{name} must be two or more rising numbers above 0, got {values!r}")
        check_sparsity(self.densities[-1], "densities")
        if self.split not in ("train", "validation", "test"):
            raise ResproutError(f"split must be 'train', 'validation' or 'test', got {self.split!r}")
        if self.seeds < 1 or not self.retrain > 0:
            raise ResproutError(f"seeds must be 1 or more and retrain above 0, got {self.seeds!r} and {self.retrain!r}")

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: a task that is no classification of (inputs, labels).
        """
        began = time.monotonic()
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        plan = [(s, e, d) for s in range(self.seeds) for e in self.epochs for d in self.densities]
        cells = []
        for i, (seed, epochs, density) in enumerate(plan):
            tell(f"{epochs:g} epochs, density {density:g}, seed {seed}", i / len(plan))
            cells.append(self._cell(task, folder, seed, epochs, density))
        return dataclasses.replace(self._found(cells), seconds=time.monotonic() - began)

    def _cell(self, task: Task, folder: Path, seed: int, epochs: float, density: float) -> Cell:
        """One pruned network, retrained twice."""
        where: dict[str, Any] = {"seed": seed, "epochs": epochs, "density": density}
        training: dict[str, Any] = {"task": repr(task), "model": self.model, "lr": self.lr}
        question = where | training | {n: getattr(self, n) for n in ("allocate", "retrain", "points", "split")}

        def answer() -> dict[str, Any]:
            model = self._dense(task, folder, seed, epochs, training)
            masks = prune(model, 1 - density, score="magnitude", allocate=self.allocate, floor=1)
            twins, steps = [copy.deepcopy(model) for _ in range(2)], round(self.retrain * task.steps_per_epoch)
            facts: dict[str, Any] = {"test": [], "validation": [], "right": []}
            for i, twin in enumerate(twins):
                run = train(twin, task, max(1, steps), masks=masks, seed=mix(seed, "retrain", i), lr=self.lr)
                if (said := outputs(twin, task, "test")) is None:
                    raise ResproutError(
                        f"task {self.task!r} is no classification of (inputs, labels), which this study is of"
                    )
                facts["validation"].append(run.here["validation"])
                facts["test"].append(said.accuracy)
                facts["right"].append(said.right.int().tolist())
            split: Any = self.split
            one, other = twins
            line = between(one, other, task, points=self.points, split=split)
            return facts | {
                "mc": line.connectivity,
                "line": line.values,
                "cka": similarity(one, other, task, seed=seed),
            }

        return where | kept(folder / "cells", question, answer)

    def _dense(self, task: Task, folder: Path, seed: int, epochs: float, training: dict[str, Any]) -> nn.Module:
        """The dense network of a seed and a number of epochs, trained once."""
        model = find.network(self.model, None, mix(seed, "network") % 2**31)
        named = training | {"epochs": epochs, "seed": seed}
        file = folder / "dense" / f"{mix(0, *sorted(map(str, named.items()))):014x}.safetensors"
        if file.exists():
            model.load_state_dict(load_tensors(file)[0])
        else:
            train(model, task, max(1, round(epochs * task.steps_per_epoch)), seed=seed, lr=self.lr)
            save_tensors(file, model.state_dict(), named)
        return model

    # -- what follows ----------------------------------------------------------------------------------------------

    def _found(self, cells: Sequence[Cell]) -> Finding:
        """What the rule says at each density, against the longest training and against the best."""
        at = {(c["seed"], c["epochs"], c["density"]): c for c in cells}
        rows, gains, regrets = [], [], []
        for density in self.densities:
            column = [[at[s, e, density] for e in self.epochs] for s in range(self.seeds)]
            chosen = [self._recommended(cells) for cells in column]
            best = [max(cells, key=lambda c: _mean(c["validation"])) for cells in column]
            gain, regret = _gap(chosen, [c[-1] for c in column]), _gap(best, chosen)
            gains.append([chosen, [c[-1] for c in column]])
            regrets.append([best, chosen])
            rows.append(self._row(density, column, chosen, best, gain, regret))
        gain, regret = (_over(pairs, self.seeds) for pairs in (gains, regrets))
        longest, shortest = ({d: [at[s, e, d] for s in range(self.seeds)] for d in self.densities} for e in
                             (self.epochs[-1], self.epochs[0]))  # fmt: skip
        turn = [_gap(longest[d], shortest[d]) for d in (self.densities[0], self.densities[-1])]
        behind = sum(r["regime"] == "I" for r in rows)
        verdict = (
            f"Dense training of {self.epochs[-1]:g} epochs rather than {self.epochs[0]:g} changes the pruned network by "
            f"{_said(turn[0])} points of test accuracy at density {self.densities[0]:g} and by {_said(turn[1])} at "
            f"{self.densities[-1]:g}; choosing by mode connectivity (which sees barriers at {behind} of {len(rows)} densities) "
            f"changes it by {_said(gain)} against always {self.epochs[-1]:g} epochs, {_said(regret)} short of the best by "
            f"validation (mean over densities; 95 % intervals, {self.seeds} seed{'s' * (self.seeds != 1)})."
        )
        holds = None if self.seeds == 1 or gain.low <= 0 <= gain.high else gain.low > 0
        grid = [
            self._mean_cell(e, d, [at[s, e, d] for s in range(self.seeds)]) for e in self.epochs for d in self.densities
        ]
        return Finding(verdict, holds, {"What the rule says": rows, "Grid": grid}, self._figures(grid))

    def _recommended(self, cells: Sequence[Cell]) -> Cell:
        """The rule, on one density's cells from hot to cold: the coldest without a barrier, or the hottest."""
        return next((c for c in reversed(cells) if c["mc"] >= -self.barrier), cells[0])

    def regime(self, mc: float, cka: float) -> str:
        """Return "I" (a barrier), "II-A" (none, but not alike) or "II-B" (none, and alike)."""
        if mc < -self.barrier:
            return "I"
        return "II-B" if cka >= self.similar else "II-A"

    def _direction(self, mc: float) -> str:
        return HOTTER if mc < -self.barrier else COLDER

    def _row(
        self, density: float, column: list[list[Cell]], chosen: list[Cell], best: list[Cell], gain: Difference,
        regret: Difference,
    ) -> dict[str, Any]:  # fmt: skip
        longest = [cells[-1] for cells in column]
        mc, cka = (_mean([c[n] for c in longest]) for n in ("mc", "cka"))
        return {
            "density": density,
            "mc of the longest": mc,
            "CKA": cka,
            "regime": self.regime(mc, cka),
            "direction": self._direction(mc),
            "recommended epochs": _counted([c["epochs"] for c in chosen]),
            "best epochs": _counted([c["epochs"] for c in best]),
            "gain": gain.mean,
            "gain low": gain.low,
            "gain high": gain.high,
            "regret": regret.mean,
            "regret low": regret.low,
            "regret high": regret.high,
        }

    def _mean_cell(self, epochs: float, density: float, cells: Sequence[Cell]) -> dict[str, Any]:
        mc, cka = (_mean([c[n] for c in cells]) for n in ("mc", "cka"))
        tests = [100 * _mean(c["test"]) for c in cells]
        facts: dict[str, Any] = {
            "epochs": epochs,
            "density": density,
            "mc": mc,
            "CKA": cka,
            "test %": _mean(tests),
            "std": spread(tests)[1] if len(tests) > 1 else None,
        }
        return facts | {"regime": self.regime(mc, cka), "direction": self._direction(mc)}

    def _figures(self, grid: Sequence[Mapping[str, Any]]) -> tuple[Figure, ...]:
        def square(name: str) -> list[list[float]]:
            return [[g[name] for g in grid if g["epochs"] == e] for e in self.epochs]

        axes = (
            [f"{d:g}" for d in self.densities],
            [f"{e:g}" for e in self.epochs],
            "density",
            "epochs of dense training",
        )
        words = "Rows go from hot (few epochs, below) to cold; columns from high load (sparse) to low."
        return (
            heat("Mode connectivity of two retrained networks", square("mc"), *axes, unit="mc", diverging=True,
                 words=f"Negative is a barrier: train the dense network for fewer epochs. {words}"),
            heat("Similarity of two retrained networks", square("CKA"), *axes, unit="CKA", words=words),
            heat("Test accuracy after pruning and retraining", square("test %"), *axes, unit="%", words=words),
        )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _rights(cells: Sequence[Cell]) -> np.ndarray:
    """(seeds, samples): how often of two each test sample is classified rightly, in percent."""
    return 100 * np.array([np.mean(c["right"], axis=0) for c in cells])


def _gap(ours: Sequence[Cell], theirs: Sequence[Cell]) -> Difference:
    return paired(_rights(ours), _rights(theirs))


def _over(pairs: Sequence[Sequence[Sequence[Cell]]], seeds: int) -> Difference:
    """The mean difference over all densities, paired by seed and test sample."""
    ours, theirs = (np.mean([_rights(p[i]) for p in pairs], axis=0) for i in (0, 1))
    return paired(ours, theirs)


def _said(d: Difference) -> str:
    return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"


def _counted(values: Sequence[float]) -> str:
    """As in "8 (3x), 32 (2x)"."""
    return ", ".join(f"{v:g} ({values.count(v)}x)" for v in sorted(set(values)))
