"""What do compressed networks forget? Samples and classes on which populations of dense and pruned networks differ.

Hooker, Courville, Clark, Dauphin, Frome: "What Do Compressed Deep Neural Networks Forget?", arXiv:1911.05248 (2019).

Pruning is gradual by magnitude, as published. Added here: a second dense population. How often it differs from the first is
what new seeds do without any pruning; and as it has no part in choosing exemplars, its accuracy on them is a fair measure of
how hard they are (of the populations that chose them, one is wrong by construction).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..compare.statistics import paired
from ..core.kinds import Fidelity
from ..core.task import Task
from ..evaluate import exemplars
from ..evaluate.outputs import Outputs
from ..report.figure import Figure, heat, lines
from ._forgotten import Row, audit, deciding, gallery_of, hardness, level_row
from ._gallery import shown
from ._population import AGAIN, DENSE, inputs, levels, population, stacked
from ._study import Finding, Study, Tell, silent

FEW = 5  # fewer exemplars than this decide nothing


@dataclass(frozen=True)
class Pie(Study):
    """Train `models` networks at each sparsity (and two dense populations), and compare their modal labels.

    The highest sparsity whose mean accuracy is within `near` points of the dense one decides. `p` is the level of Welch's test
    for classes; no correction for many classes, as published (the second dense population shows how many come up by chance).
    With `weights` all networks start from that file.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    models: int = 10
    sparsities: tuple[float, ...] = (0.5, 0.9, 0.95, 0.98)
    epochs: float = 20
    lr: float = 0.1
    p: float = 0.05
    near: float = 2.0
    pictures: int = 24
    precision: str = "fp32"
    seed: int = 0
    claim: ClassVar[str] = (
        "Pruned networks of nearly the same accuracy differ from dense ones on a small set of samples, which are harder for "
        "dense networks as well."
    )
    key: ClassVar[str | None] = "pie"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Train what is missing, and compare."""
        networks = population(
            folder, self.task, self.model, self.data, self.weights, self.epochs, models=self.models, lr=self.lr,
            precision=self.precision, seed=self.seed,
        )  # fmt: skip
        groups = levels(self.sparsities)
        return self.judge(networks.all(groups, tell), groups, networks.task)

    def judge(self, said: Mapping[str, Sequence[Outputs]], groups: Mapping[str, float], task: Task) -> Finding:
        """Return what the outputs of the populations show."""
        labels, classes = said[DENSE][0].labels, said[DENSE][0].logits.shape[1]
        predicted = {label: stacked(members) for label, members in said.items()}
        tested = class_rows(predicted, labels, classes, self.p)
        rows = [level_row(predicted, label, groups[label], labels, classes) for label in groups]
        for row in rows:
            own = [r for r in tested if r["population"] == row["population"]]
            row["classes impacted"], row["classes tested"] = (sum(r[n] for r in own) for n in ("impacted", "tested"))
        at = deciding(rows, self.near)
        verdict, holds = self._verdict(predicted, labels, classes, at)
        found = audit(predicted, labels, classes, at)
        figures = [_curve(rows), _classes(tested, groups)]
        if found and shown(images := inputs(task)):
            figures.append(gallery_of(images, found, at, self.pictures))
        return Finding(verdict, holds, {"populations": rows, "classes": tested, "exemplars": found}, figures)

    def _verdict(
        self, predicted: Mapping[str, Tensor], labels: Tensor, classes: int, at: str
    ) -> tuple[str, bool | None]:
        """Whether more than chance is forgotten, and whether it is hard for networks that had no part in choosing.

        The first interval is over samples, for these populations: modes of ten networks cannot be had of resampled ones.
        """
        chosen, chance = (exemplars.exemplars(predicted[DENSE], predicted[x], classes) for x in (at, AGAIN))
        excess = paired([(chosen * 100.0).tolist()], [(chance * 100.0).tolist()])  # pyright: ignore[reportArgumentType]
        ours, dense = (100 * float(exemplars.accuracies(predicted[x], labels).mean()) for x in (at, DENSE))
        text = (
            f"at {at} sparsity (accuracy {ours - dense:+.2f} points) {int(chosen.sum())} of {len(labels)} test samples are "
            f"exemplars, against {int(chance.sum())} between two dense populations "
            f"({excess.mean:+.2f} [{excess.low:+.2f}, {excess.high:+.2f}] % of the samples)"
        )
        if ours < dense - self.near:
            return f"{text}; no sparsity tried keeps the accuracy within {self.near:g} points, as the claim asks", None
        if not FEW <= int(chosen.sum()) < len(labels):
            return f"{text}; too few to say whether they are hard", None
        gap = hardness(predicted[AGAIN] == labels, chosen)
        text += f"; on them dense networks that had no part in the choice are {abs(gap.mean):.1f} points "
        text += f"{'less' if gap.mean < 0 else 'more'} accurate than on the rest [{gap.low:+.1f}, {gap.high:+.1f}]"
        against = excess.high < 0 or gap.low > 0
        return text, True if excess.low > 0 and gap.high < 0 else (False if against else None)


def class_rows(predicted: Mapping[str, Tensor], labels: Tensor, classes: int, p: float) -> list[Row]:
    """Return for every class and population but the dense one how its recall moved, beyond what all classes have in common.

    A class that no network gets wrong moves too, as the others lose: the published measure is relative to the accuracy.
    `shift` is in points, `relative` a percentage of the dense recall; a class is impacted where Welch's test says so.
    """

    def measured(label: str) -> tuple[np.ndarray, np.ndarray]:
        recall = exemplars.recalls(predicted[label], labels, classes)
        return recall, exemplars.relative(recall, exemplars.accuracies(predicted[label], labels))

    base_recall, base = measured(DENSE)
    rows: list[Row] = []
    for label in predicted:
        if label == DENSE:
            continue
        recall, beta = measured(label)
        for c in (c for c in range(classes) if bool((labels == c).any())):
            test, shift = exemplars.welch(beta[:, c], base[:, c]), 100 * float(beta[:, c].mean() - base[:, c].mean())
            before, after = float(base_recall[:, c].mean()), float(recall[:, c].mean())
            known = {n: None if math.isnan(v) else v for n, v in (("t", test.t), ("df", test.df), ("p", test.p))}
            row: Row = {"population": label, "class": c, "recall dense": 100 * before, "recall": 100 * after}
            row |= {"shift": shift, "relative": 100 * (after - before) / before if before else None}
            rows.append(row | known | {"tested": known["p"] is not None, "impacted": bool(test.p <= p)})
    return rows


def _curve(rows: Sequence[Row]) -> Figure:
    """Shares of exemplars and of what accuracy lost, over sparsity."""
    dense = rows[0]["accuracy"]
    pruned = [r for r in rows if r["sparsity"] > 0]
    chance = next(r["share"] for r in rows if r["population"] == AGAIN)
    x = [100 * r["sparsity"] for r in pruned]
    series: dict[str, Mapping[str, Sequence[Any]]] = {
        "exemplars": {"x": x, "y": [r["share"] for r in pruned]},
        "accuracy lost": {
            "x": x,
            "y": [dense - r["accuracy"] for r in pruned],
            "spread": [r["spread"] for r in pruned],
        },
        "two dense populations (chance)": {"x": x, "y": [chance] * len(x)},
    }
    words = "How many test samples dense and pruned networks disagree on, against how much accuracy pruning costs."
    return lines("What pruning forgets", series, "sparsity, %", "% of the test samples", words=words)


def _classes(tested: Sequence[Row], groups: Mapping[str, float]) -> Figure:
    names = [label for label in groups if label != DENSE]
    shift = {(r["population"], r["class"]): r["shift"] for r in tested}
    present = sorted({r["class"] for r in tested})
    values = [[shift[(name, c)] for c in present] for name in names]
    hit = sum(r["impacted"] for r in tested if r["population"] != AGAIN)
    words = (
        f"Recall of each class less accuracy, compared with dense networks; Welch's test calls {hit} of "
        f"{len(present) * (len(names) - 1)} shifts significant, and {sum(r['impacted'] for r in tested) - hit} of "
        f"{len(present)} between two dense populations."
    )
    return heat(
        "How classes move", values, present, names, "class", "population", unit="points", diverging=True, words=words
    )
