"""Are half of the training samples enough, if they are the hardest and drawn anew while the network learns?

Attendu, Corbeil: "NLU on Data Diets: Dynamic Data Subset Selection for NLP Classification Tasks", SustaiNLP 2023,
arXiv:2306.03208. Beside the diet: all samples; all samples for as many steps as the diet takes; the hardest, drawn once; and a
random part, drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .. import find
from ..compare.statistics import paired, spread
from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..core.run import Run, mix
from ..core.task import Task
from ..core.train import Optimizer
from ..samples.nlu_data_diet import NluDataDiet
from ..samples.random import Random
from ._kept import kept
from ._study import Finding, Study, Tell, silent

ALL, SHORT, ONCE, ANEW, CHANCE = (
    "all samples", "all, as few steps", "hardest, drawn once", "hardest, drawn anew", "random, drawn anew",
)  # fmt: skip


@dataclass(frozen=True)
class DataDiet(Study):
    """Train by each course with each of `seeds`, and compare test accuracies.

    Attributes:
        task, model, data: as in `compare`.
        keep: the share of the samples that the diets train on after the `first` epochs, drawn every `every` epochs.
        score: of the samples, as in `resprout list --kind sample`.
        epochs, lr, optimizer, seeds: of every training.
        near: points of accuracy that count as no loss.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    keep: float = 0.5
    first: int = 2
    every: int = 2
    score: str = "el2n"
    epochs: int = 40
    lr: float = 0.05
    optimizer: str = "sgd"
    seeds: int = 3
    near: float = 0.5
    claim: ClassVar[str] = (
        "Half of the samples, the hardest and drawn anew, train as well as all of them, in less time."
    )
    key: ClassVar[str | None] = "nlu-data-diet"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: fewer than two seeds.
        """
        if self.seeds < 2:
            raise ResproutError(f"an interval needs two seeds at least, got {self.seeds}")
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        courses, rows = self._courses(), []
        for i, (seed, way) in enumerate((s, w) for s in range(self.seeds) for w in courses):
            tell(f"{way}, seed {seed}", i / len(courses) / self.seeds)
            rows.append({"way": way, "seed": seed} | self._run(folder, task, seed, courses[way]))
        return judge(rows, self.near)

    def _courses(self) -> dict[str, NluDataDiet]:
        """The ways to train, by name."""
        score: Any = find.method("sample", self.score)
        same: dict[str, Any] = {"lr": self.lr, "optimizer": Optimizer(self.optimizer)}
        part = same | {"keep": self.keep, "every": self.every, "first": self.first, "epochs": self.epochs}
        short = max(1, round(self.first + (self.epochs - self.first) * self.keep))
        return {
            ALL: NluDataDiet(keep=1.0, epochs=self.epochs, **same),
            SHORT: NluDataDiet(keep=1.0, epochs=short, **same),
            CHANCE: NluDataDiet(score=Random(), **part),
            ONCE: NluDataDiet(score=score, renew=False, **part),
            ANEW: NluDataDiet(score=score, **part),
        }

    def _run(self, folder: Path, task: Task, seed: int, course: NluDataDiet) -> dict[str, Any]:
        """What one training comes to; accuracies in percent."""

        def answer() -> dict[str, Any]:
            run = Run(find.network(self.model, None, mix(seed, "network")), task, seed=seed)
            began = time.monotonic()
            course(run)
            seconds, draws = time.monotonic() - began, [r["seconds"] for r in run.journal if r["step"] == "Draw"]
            facts = {"test": 100 * run.evaluate("test"), "steps": run.trained, "draws": len(draws)}
            return facts | {"seconds": round(seconds, 2), "of them drawing": round(sum(draws), 2)}

        question = {"task": repr(task), "model": self.model, "seed": seed, "course": repr(course)}
        return kept(folder / "trainings", question, answer)


def judge(rows: list[dict[str, Any]], near: float) -> Finding:
    """Return what the trainings, each with way, seed, test, steps and seconds, show."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    by: Mapping[str, list[dict[str, Any]]] = {w: [r for r in rows if r["way"] == w] for w in ways}
    table = []
    for way in ways:
        mean, deviation = spread([r["test"] for r in by[way]])
        row: dict[str, Any] = {"course": way, "test accuracy, %": round(mean, 2), "± sd": round(deviation, 2)}
        row |= {n: round(spread([float(r[n]) for r in by[way]])[0], 1) for n in ("steps", "seconds", "of them drawing")}
        gap = paired([r["test"] for r in by[ANEW]], [r["test"] for r in by[way]])
        table.append(row | {"the diet's advantage": "" if way == ANEW else str(gap)})
    full = paired([r["test"] for r in by[ANEW]], [r["test"] for r in by[ALL]])
    short = paired([r["test"] for r in by[ANEW]], [r["test"] for r in by[SHORT]])
    share = by[ANEW][0]["steps"] / by[ALL][0]["steps"]
    holds = True if full.low >= -near else False if full.high < -near else None
    verdict = (
        f"with {100 * share:.0f} % of the steps the diet is {full} points from all samples, and {short} from all samples in as "
        "few steps"
    )
    return Finding(verdict, holds, {"Courses": table, "Trainings": rows})
