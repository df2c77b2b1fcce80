"""Whom does compression hurt? Errors of groups before and after, and how over-represented groups are among exemplars.

Hooker, Moorosi, Clark, Bengio, Denton: "Characterising Bias in Compressed Models", arXiv:2010.03058 (2020).

Two parts. The planted one has a minority that follows another rule than the rest, so that what ought to be found is known.
The other is any task: its own groups (an attribute `attributes` of the task: name -> bool of the test samples), or where it has
none the classes, and for images the darkest, the brightest and the most atypical tenth. The networks of the second part are
those of `pie`, where both lie in one folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..compare.statistics import Difference, paired
from ..core.kinds import Fidelity
from ..core.task import Task
from ..evaluate import exemplars
from ..evaluate.groups import Groups, groups_of
from ..report.figure import Figure, lines
from ._forgotten import Predicted, Row, audit, deciding, gallery_of, level_row
from ._gallery import shown
from ._population import DENSE, Population, inputs, levels, population, stacked
from ._study import Finding, Study, Tell, silent
from ._synthetic import perceptron, two_groups


@dataclass(frozen=True, eq=False)
class Part:
    """One task, with what its populations say, and its groups."""

    name: str
    task: Task
    predicted: Predicted
    labels: Tensor
    classes: int
    groups: Groups


@dataclass(frozen=True)
class CieBias(Study):
    """Train `models` networks at each sparsity, on the planted task and on `task`; `minority` is the planted group's share.

    The highest sparsity whose mean accuracy is within `near` points of the dense one decides: for the smallest group of `task`
    where the task has groups of its own, else for the planted minority.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    models: int = 10
    sparsities: tuple[float, ...] = (0.5, 0.9, 0.95, 0.98)
    epochs: float = 20
    lr: float = 0.1
    minority: float = 0.05
    near: float = 2.0
    pictures: int = 24
    precision: str = "fp32"
    seed: int = 0
    claim: ClassVar[str] = (
        "Compression that leaves the accuracy nearly unchanged raises the error of under-represented groups far more than that "
        "of the rest, and they are over-represented among the exemplars."
    )
    key: ClassVar[str | None] = "cie-bias"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Train what is missing, and compare."""
        groups = levels(self.sparsities)
        planted = two_groups(self.minority, seed=self.seed)
        width = planted.test[0].shape[1]
        small = Population(
            folder.parent / "_population", planted, lambda seed: perceptron(width, 128, 2, seed=seed),
            round(20 * planted.steps_per_epoch), self.models, seed=self.seed,
        )  # fmt: skip
        named = population(
            folder, self.task, self.model, self.data, self.weights, self.epochs, models=self.models, lr=self.lr,
            precision=self.precision, seed=self.seed,
        )  # fmt: skip
        parts = [
            _part("planted", small, groups, lambda what, share: tell(f"planted: {what}", 0.2 * share)),
            _part(self.task, named, groups, lambda what, share: tell(f"{self.task}: {what}", 0.2 + 0.8 * share)),
        ]
        return self.judge(parts, groups)

    def judge(self, parts: Sequence[Part], sparsities: Mapping[str, float]) -> Finding:
        """Return what the populations show; the planted part comes first."""
        tables: dict[str, list[Row]] = {"populations": [], "groups": []}
        figures, at = [], {}
        for part in parts:
            rows = [level_row(part.predicted, x, s, part.labels, part.classes) for x, s in sparsities.items()]
            at[part.name] = deciding(rows, self.near)
            tables["populations"] += [{"task": part.name} | row for row in rows]
            grouped = group_rows(part, sparsities)
            tables["groups"] += grouped
            figures += [_errors(part, grouped), _over(part, grouped)]
        planted, named = parts
        found = audit(named.predicted, named.labels, named.classes, at[named.name])
        if found and shown(images := inputs(named.task)):
            figures.append(gallery_of(images, found, at[named.name], self.pictures))
        decides = named if hasattr(named.task, "attributes") else planted
        verdict, holds = self._verdict(decides, at[decides.name], tables["populations"])
        if "most atypical" in named.groups:
            gap = excess(named, at[named.name], named.groups["most atypical"])
            verdict += (
                f"; {named.name} task, {at[named.name]} sparsity: the error of the most atypical tenth changes by "
                f"{gap.mean:+.1f} points more than that of the rest [{gap.low:+.1f}, {gap.high:+.1f}]"
            )
        return Finding(verdict, holds, tables | {f"exemplars of {named.name}": found}, figures)

    def _verdict(self, part: Part, at: str, rows: Sequence[Row]) -> tuple[str, bool | None]:
        smallest = min(part.groups, key=lambda name: int(part.groups[name].sum()))
        group = part.groups[smallest]
        dense, ours = (
            next(r["accuracy"] for r in rows if (r["task"], r["population"]) == (part.name, x)) for x in (DENSE, at)
        )
        gap = excess(part, at, group)
        chosen = exemplars.exemplars(part.predicted[DENSE], part.predicted[at], part.classes)
        over = exemplars.over_indexing(chosen, group)
        text = (
            f"{part.name} task, {at} sparsity: accuracy changes by {ours - dense:+.2f} points, and the error of the group "
            f"{smallest!r} ({100 * float(group.double().mean()):.3g} % of the samples) by {gap.mean:+.1f} points more than "
            f"that of the rest [{gap.low:+.1f}, {gap.high:+.1f}]; among the {int(chosen.sum())} exemplars "
            f"it is {over:.1f} times as frequent as among all samples"
        )
        if ours < dense - self.near:
            return f"{text}; no sparsity tried keeps the accuracy within {self.near:g} points, as the claim asks", None
        if gap.high < 0:
            return text, False
        return text, True if gap.low > 0 and over > 1 else None


def _part(name: str, networks: Population, groups: Mapping[str, float], tell: Tell) -> Part:
    said = networks.all(groups, tell)
    labels, classes = said[DENSE][0].labels, said[DENSE][0].logits.shape[1]
    predicted = {label: stacked(members) for label, members in said.items()}
    return Part(name, networks.task, predicted, labels, classes, groups_of(networks.task, labels, classes))


def excess(part: Part, label: str, group: Tensor) -> Difference:
    """Return by how many points more the error of a group rose than that of the rest, with its interval."""
    wrong = [100 * exemplars.contrast((part.predicted[x] != part.labels).double(), group) for x in (label, DENSE)]
    return paired(wrong[0], wrong[1])


def group_rows(part: Part, sparsities: Mapping[str, float]) -> list[Row]:
    """Return for every group and population its rates and how they moved; rates are in percent, of two classes 1 is positive.

    `change` is (error - dense error) / dense error in percent, and t and p are Welch's for the errors of the networks.
    """
    rows: list[Row] = []
    for name, group in part.groups.items():
        dense = exemplars.rates(part.predicted[DENSE], part.labels, group, part.classes)
        base = float(dense.error.mean())
        for label, sparsity in sparsities.items():
            ours = exemplars.rates(part.predicted[label], part.labels, group, part.classes)
            chosen = exemplars.exemplars(part.predicted[DENSE], part.predicted[label], part.classes)
            error, test = float(ours.error.mean()), exemplars.welch(ours.error, dense.error)
            row: dict[str, Any] = {"task": part.name, "group": name, "share": 100 * float(group.double().mean())}
            row |= {"population": label, "sparsity": sparsity, "error": 100 * error}
            row |= {"false positives": 100 * float(ours.false_positive.mean())}
            row |= {"false negatives": 100 * float(ours.false_negative.mean())}
            row |= {"change": 100 * (error - base) / base if base else math.nan, "t": test.t, "p": test.p}
            row |= {"over-indexing": exemplars.over_indexing(chosen, group)}
            rows.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return rows


def _errors(part: Part, rows: Sequence[Row]) -> Figure:
    """Errors of the groups over sparsity; of many groups those that changed most."""
    groups = {
        n: [r for r in rows if r["group"] == n and (r["sparsity"] > 0 or r["population"] == DENSE)] for n in part.groups
    }
    moved = sorted(groups, key=lambda n: groups[n][0]["error"] - groups[n][-1]["error"])[:6]
    spread = {
        (n, r["population"]): 100 * float(np.std(_error(part, r["population"], n), ddof=1))
        for n in moved
        for r in groups[n]
    }
    series: dict[str, Mapping[str, Sequence[Any]]] = {
        n: {
            "x": [100 * r["sparsity"] for r in groups[n]],
            "y": [r["error"] for r in groups[n]],
            "spread": [spread[(n, r["population"])] for r in groups[n]],
        }
        for n in moved
    }
    which = "each group" if len(groups) <= 6 else "the six groups that changed most"
    words = f"The error of {which}, with the spread of networks."
    return lines(f"Errors of groups, {part.name} task", series, "sparsity, %", "error, %", words=words)


def _error(part: Part, label: str, group: str) -> np.ndarray:
    return exemplars.rates(part.predicted[label], part.labels, part.groups[group], part.classes).error


def _over(part: Part, rows: Sequence[Row]) -> Figure:
    pruned = [r for r in rows if r["sparsity"] > 0 and r["over-indexing"] is not None]
    most = sorted(
        {r["group"] for r in pruned}, key=lambda n: -max(r["over-indexing"] for r in pruned if r["group"] == n)
    )[:6]
    series: dict[str, Mapping[str, Sequence[Any]]] = {
        n: {
            "x": [100 * r["sparsity"] for r in pruned if r["group"] == n],
            "y": [r["over-indexing"] for r in pruned if r["group"] == n],
        }
        for n in most
    }
    words = "How many times as frequent a group is among the exemplars as among all test samples; 1 is its share."
    return lines(f"Who is among the exemplars, {part.name} task", series, "sparsity, %", "over-indexing", words=words)
