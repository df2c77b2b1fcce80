"""Does a teacher make up for training data that were pruned away, whichever way they were chosen?

Ben-Baruch, Botach, Kviatkovsky, Aggarwal, Medioni: "Distilling the Knowledge in Data Pruning", 2024, arXiv:2403.07854. The
teacher is of the student's architecture and learns from all training samples, of whose labels a part may be wrong; validation
and test labels are right.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from .. import find
from ..compare.statistics import paired, spread
from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..core.run import Run, mix
from ..core.train import Optimizer
from ..samples.kd_data_pruning import KdDataPruning
from ..samples.subset import pair
from ..tasks.arrays import Arrays
from ._kept import kept
from ._study import Finding, Study, Tell, silent
from ._synthetic import noisy


@dataclass(frozen=True)
class DistilledData(Study):
    """Train a student on each share `keep`, chosen by each score, with each `alpha`, for each seed.

    Attributes:
        task, model, data: as in `compare`; labels can be made noisy where the task keeps arrays (digits, cifar10).
        noise: the probability that a training label is wrong.
        keep: shares of the samples.
        scores: of the samples, as in `resprout list --kind sample`; the first is the baseline of the others.
        alphas: the teacher's part of the loss, 0 first; the last is the one that the verdict is about.
        epochs, student_epochs, lr, optimizer, seeds: of every training.
        near: points that the first score may be behind another, both with the teacher.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    noise: float = 0.2
    keep: tuple[float, ...] = (0.1,)
    scores: tuple[str, ...] = ("random", "el2n")
    alphas: tuple[float, ...] = (0.0, 0.9)
    epochs: int = 10
    student_epochs: float = 10
    lr: float = 0.05
    optimizer: str = "sgd"
    seeds: int = 3
    near: float = 1.0
    claim: ClassVar[str] = (
        "Distillation from a teacher that saw all data raises every way of pruning data, and random pruning with it is as good "
        "as any other."
    )
    key: ClassVar[str | None] = "kd-data-pruning"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: one seed, no score, alphas that do not begin with 0, or noise on a task whose labels are not arrays.
        """
        if self.seeds < 2 or not self.scores or len(self.alphas) < 2 or self.alphas[0] != 0:
            raise ResproutError("distilled_data needs two seeds, a score, and alphas that begin with 0")
        plan = [(s, k, w, a) for s in range(self.seeds) for k in self.keep for w in self.scores for a in self.alphas]
        rows = []
        for i, (seed, keep, way, alpha) in enumerate(plan):
            tell(f"{keep:g} by {way}, alpha {alpha:g}, seed {seed}", i / len(plan))
            rows.append({"keep": keep, "score": way, "alpha": alpha, "seed": seed} | self._run(folder, *plan[i]))
        return judge(rows, self.near)

    def _run(self, folder: Path, seed: int, keep: float, way: str, alpha: float) -> dict[str, Any]:
        """What one teacher and its student come to; accuracies in percent."""
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        if self.noise:
            if not isinstance(task, Arrays):
                raise ResproutError(f"task {self.task!r} keeps no arrays, whose labels could be made noisy; noise=0")
            task = dataclasses.replace(task, train=noisy(task, self.noise, seed).train)
        score: Any = find.method("sample", way)
        course = KdDataPruning(
            keep, alpha, score=score, epochs=self.epochs, student_epochs=self.student_epochs, lr=self.lr,
            optimizer=Optimizer(self.optimizer),
        )  # fmt: skip

        def answer() -> dict[str, Any]:
            run = Run(find.network(self.model, None, mix(seed, "network")), task, seed=seed)
            course(run)
            facts = {"student": 100 * run.evaluate("test"), "samples": max(1, round(keep * len(pair(task)[1])))}
            with torch.no_grad():
                run.restore("dense")
            return facts | {"teacher": 100 * run.evaluate("test")}

        question = {"task": repr(task), "model": self.model, "seed": seed, "course": repr(course)}
        return kept(folder / "trainings", question, answer)


def judge(rows: list[dict[str, Any]], near: float) -> Finding:
    """Return what the students, each with keep, score, alpha, seed, and test accuracy, show."""

    def students(**wanted: Any) -> list[float]:
        return [r["student"] for r in rows if all(r[n] == v for n, v in wanted.items())]

    keeps, ways, alphas = (list(dict.fromkeys(r[n] for r in rows)) for n in ("keep", "score", "alpha"))
    table, verdicts, better, behind = [], [], [], []
    for keep in keeps:
        for way in ways:
            row: dict[str, Any] = {"kept, %": 100 * keep, "by": way}
            row |= {f"alpha {a:g}": round(spread(students(keep=keep, score=way, alpha=a))[0], 2) for a in alphas}
            plain = students(keep=keep, score=way, alpha=0)
            gain = paired(students(keep=keep, score=way, alpha=alphas[-1]), plain)
            better.append(gain)
            best = max(alphas, key=lambda a, k=keep, w=way: spread(students(keep=k, score=w, alpha=a))[0])
            table.append(row | {"best alpha": best, f"alpha {alphas[-1]:g} less 0": str(gain)})
            verdicts.append(f"{100 * keep:g} % by {way}: {gain}")
        for way in ways[1:]:
            chance = students(keep=keep, score=ways[0], alpha=alphas[-1])
            behind.append(paired(chance, students(keep=keep, score=way, alpha=alphas[-1])))
            verdicts.append(f"{ways[0]} less {way}, both with the teacher: {behind[-1]}")
    teacher = spread([r["teacher"] for r in rows])[0]
    holds = None
    if all(g.low > 0 for g in better) and all(b.mean >= -near for b in behind):
        holds = True
    elif any(g.high < 0 for g in better) or any(b.high < -near for b in behind):
        holds = False
    return Finding(
        f"with the teacher ({teacher:.2f} %) students gain, in points: " + "; ".join(verdicts), holds,
        {"Students": table, "Trainings": rows},
    )  # fmt: skip
