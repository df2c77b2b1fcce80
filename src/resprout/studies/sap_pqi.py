"""Does the PQ index say how far a network can be pruned, and does pruning by it beat lottery tickets and one cut?

Diao, Wang, Zhang, Yang, Ding, Tarokh: "Pruning Deep Neural Networks from a Sparsity Perspective", ICLR 2023,
arXiv:2302.05601. The recipe is `sap`; with p = 1 and q = 2, of the paper's two settings the one that needs fewer rounds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import find
from ..compare.statistics import Difference, paired
from ..core.errors import ResproutError
from ..core.kinds import Fidelity, Recipe
from ..core.store import configuration
from ..core.task import Task
from ..evaluate.outputs import outputs
from ..fit import fit
from ..methods.allocate.global_ import Global
from ..methods.recipe.lth_imp import LthImp
from ..methods.recipe.one_way import OneWay
from ..methods.recipe.sap import Sap
from ..methods.score.magnitude import Magnitude
from ..report.figure import Figure, lines
from ._kept import kept
from ._study import Finding, Study, Tell, silent

RIVALS = ("lottery ticket", "one cut")
WALKS = ("index over all rounds", "sap", *RIVALS)
Walks = Mapping[str, dict[str, Any]]  # name -> what the walk came to, of one seed


@dataclass(frozen=True)
class SapPqi(Study):
    """For each seed: the index over all rounds; the recipe that stops by itself; its rivals at its sparsity and steps.

    The rivals get as many optimizer steps as the recipe took until it had stopped (the round that it goes back on included),
    from the same dense network; lottery tickets as many rounds too, each of which removes the same share of the survivors.

    Attributes:
        task, model, data: as in `compare`.
        weights: file of a dense network that is trained already.
        seeds: of everything random.
        rounds: at most.
        epochs: of each round, and of the dense network without weights: indices of equal training are compared.
        scope, p, q, rise: as in `sap`.
        tolerance: the loss of validation accuracy up to which a path counts as good as dense, in one of the tables.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    seeds: int = 4
    rounds: int = 13
    epochs: float = 8
    scope: str = "global"
    p: float = 1.0
    q: float = 2.0
    rise: float = 0.1
    tolerance: float = 0.02
    claim: ClassVar[str] = (
        "The PQ index falls, rises at the limit of compression and falls again at collapse; pruning by it stops by itself, "
        "and is there more accurate than lottery tickets and one-shot pruning."
    )
    key: ClassVar[str | None] = "sap-pqi"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.rounds < 2 or not self.epochs > 0:
            raise ResproutError(
                "seeds must be 1 or more, rounds 2 or more and epochs above 0, "
                f"got {self.seeds!r}, {self.rounds!r} and {self.epochs!r}"
            )
        _ = self._sap(self.rise)  # complains of scope, p, q and rise

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: a task that is no classification of (inputs, labels).
        """
        began = time.monotonic()
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        paths = []
        for seed in range(self.seeds):

            def walk(name: str, recipe: Recipe, sparsity: float, seed: int = seed) -> dict[str, Any]:
                tell(f"seed {seed}: {name}", (seed + WALKS.index(name) / len(WALKS)) / self.seeds)
                return self._walk(recipe, sparsity, task, seed, folder)

            paths.append(self._paths(walk, task.steps_per_epoch))
        return dataclasses.replace(self._found(paths), seconds=time.monotonic() - began)

    def _paths(self, walk: Callable[[str, Recipe, float], dict[str, Any]], per_epoch: int) -> Walks:
        """All walks of a seed."""
        whole, sap = walk(WALKS[0], self._sap(math.inf), 0.0), walk("sap", self._sap(self.rise), 0.0)
        epochs = max(1, sap["steps"]) / per_epoch
        rounds = max(1, round(epochs / self.epochs))
        tickets = LthImp(epochs, rate=max(1e-3, 1 - (1 - sap["sparsity"]) ** (1 / rounds)))
        once = OneWay(epochs, "oneshot", score=Magnitude(), allocate=Global())
        rivals = {n: walk(n, r, sap["sparsity"]) for n, r in zip(RIVALS, (tickets, once), strict=True)}
        return {WALKS[0]: whole, "sap": sap} | rivals

    def _sap(self, rise: float) -> Sap:
        return Sap(self.rounds * self.epochs, self.rounds, self.scope, self.p, self.q, stop=True, rise=rise, floor=1)

    def _walk(self, recipe: Recipe, sparsity: float, task: Task, seed: int, folder: Path) -> dict[str, Any]:
        """One walk by `fit`, from the random network."""
        question = {"recipe": configuration(recipe), "sparsity": sparsity, "task": repr(task), "model": self.model}
        question |= {"weights": self.weights, "dense": self.epochs, "seed": seed}

        def answer() -> dict[str, Any]:
            model = find.network(self.model, None if self.weights is None else Path(self.weights), seed)
            result = fit(
                model, task, sparsity, recipe=recipe, dense_epochs=0 if self.weights else self.epochs, values="fp32",
                curve=False, seed=seed, out=folder / "runs",
            )  # fmt: skip
            if (said := outputs(model, task, "test")) is None:
                raise ResproutError(
                    f"task {self.task!r} is no classification of (inputs, labels), which this study is of"
                )
            dense = [r.get("name") for r in result.journal].index("dense")
            after = result.journal[dense:]
            facts = {
                "sparsity": result.frontier[-1].sparsity,
                "test": said.accuracy,
                "right": said.right.int().tolist(),
            }
            facts |= {"dense test": result.dense.test, "dense validation": after[0]["validation"]}
            return facts | {"steps": after[-1]["trained"] - after[0]["trained"], "rounds": _rounds(after)}

        return kept(folder / "walks", question, answer)

    def _found(self, paths: Sequence[Walks]) -> Finding:
        """The differences, and the verdict."""
        gaps = {n: _points([p["sap"]["right"] for p in paths], [p[n]["right"] for p in paths]) for n in RIVALS}
        tests, dense = [p["sap"]["test"] for p in paths], [p["sap"]["dense test"] for p in paths]
        stopped = sum(p["sap"]["steps"] < p[WALKS[0]]["steps"] for p in paths)
        drop = _points([[t] for t in tests], [[t] for t in dense])
        alive = [100 * (1 - p["sap"]["sparsity"]) for p in paths]
        verdict = (
            f"The rise of the PQ index ended the pruning for {stopped} of {len(paths)} seeds, with {min(alive):.3g} to "
            f"{max(alive):.3g} % of the weights alive and {_said(drop)} points of test accuracy against dense; at the same "
            f"sparsity and steps that is {_said(gaps[RIVALS[0]])} against lottery tickets and {_said(gaps[RIVALS[1]])} against "
            f"one cut (95 % intervals, {len(paths)} seed{'s' * (len(paths) != 1)})."
        )
        holds: bool | None = None
        if len(paths) > 1:
            if any(g.high < 0 for g in gaps.values()):
                holds = False
            elif stopped == len(paths) and all(g.low > 0 for g in gaps.values()):
                holds = True
        tables: dict[str, Any] = {
            "Where the paths end": [_end(s, n, p[n]) for s, p in enumerate(paths) for n in WALKS[1:]]
        }
        tables[f"Least density within {100 * self.tolerance:g} points of dense on validation data"] = [
            {"seed": s} | {n: self._within(p[n]) for n in WALKS} for s, p in enumerate(paths)
        ]
        tables["The index over the rounds"] = [
            {"seed": s, "round": i, "density": d, "PQ index": pq, "validation": v}
            for s, p in enumerate(paths)
            for i, (d, pq, v) in enumerate(p[WALKS[0]]["rounds"])
        ]
        return Finding(verdict, holds, tables, _figures(paths))

    def _within(self, walked: Mapping[str, Any]) -> float | None:
        least = walked["dense validation"] - self.tolerance
        return min((d for d, _, v in walked["rounds"] if v >= least), default=None)


def _rounds(journal: Sequence[Mapping[str, Any]]) -> list[tuple[float, float | None, float]]:
    """(density, index if it was measured, validation accuracy) of each trained network on a path, the dense one first."""
    found: list[tuple[float, float | None, float]] = []
    for record in journal:
        if record["step"] == "Train" or not found:
            found.append((1 - record["sparsity"], None, record["validation"]))
        elif record["step"] == "Adapt" and "died" not in record:  # looked at between a training and a cut
            found[-1] = (found[-1][0], record["index"], found[-1][2])
    return found


def _points(ours: list[list[float]], theirs: list[list[float]]) -> Difference:
    return paired(100 * np.array(ours, dtype=np.float64), 100 * np.array(theirs, dtype=np.float64))


def _said(d: Difference) -> str:
    return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"


def _end(seed: int, name: str, walked: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {
        "density": 1 - walked["sparsity"],
        "test %": 100 * walked["test"],
        "dense test %": 100 * walked["dense test"],
    }
    return {"seed": seed, "arm": name} | numbers | {"steps": walked["steps"]}


def _figures(paths: Sequence[Walks]) -> tuple[Figure, ...]:
    index, accuracy = {}, {}
    for seed, path in enumerate(paths):
        known = [(d, i, v) for d, i, v in path[WALKS[0]]["rounds"] if i is not None]
        text = [f"round {n}: {d:.2%} alive, index {i:.3f}, validation {v:.1%}" for n, (d, i, v) in enumerate(known)]
        index[f"seed {seed}"] = {"x": [d for d, _, _ in known], "y": [i for _, i, _ in known], "text": text}
    for name in WALKS:
        points = paths[0][name]["rounds"]
        accuracy[name] = {"x": [d for d, _, _ in points], "y": [100 * v for _, _, v in points]}
    stops = ", ".join(f"{1 - p['sap']['sparsity']:.2%}" for p in paths)
    return (
        lines("The PQ index as the network is pruned", index, "weights alive (fraction)", "PQ index", log_x=True,
              words=f"Read from right to left; the recipe stopped and went back to {stops} alive."),
        lines("Validation accuracy on the paths of seed 0", accuracy, "weights alive (fraction)", "%", log_x=True,
              words="Lottery tickets and one cut end at the sparsity where the index stopped, after as many steps."),
    )  # fmt: skip
