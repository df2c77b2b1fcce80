"""Subgroups: who pays for the pruning? Errors by class and group, beside the dense network, and the samples that changed.

Hooker, Courville, Clark, Dauphin, Frome: "What Do Compressed Deep Neural Networks Forget?", arXiv:1911.05248 (2019); groups after
Hooker, Moorosi, Clark, Bengio, Denton: "Characterising Bias in Compressed Models", arXiv:2010.03058 (2020).

One network of each kind: an exemplar here is a sample on which this one and the dense one differ, as two seeds do as well. For
populations, modal labels and Welch's test run the studies `pie` and `cie_bias`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity
from ...core.task import Task
from .. import exemplars
from ..groups import groups_of
from ..outputs import Outputs
from ._audit import Audit, Facts, Subject, classifies


@dataclass(frozen=True)
class Subgroups(Audit):
    """The task's own groups (its attribute `attributes`), or classes and the darkest, brightest and oddest tenth of images.

    `excess` is how much more than that of the rest a group's error rose; `z` is that over its standard error over samples
    (where many groups are looked at, one beyond 2 is no surprise). No group smaller than `least` samples is called the worst.
    """

    least: int = 10
    key: ClassVar[str | None] = "pie"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def check(self, task: Task) -> None:
        """Look at one batch.

        Raises:
            ResproutError: no classification.
        """
        classifies(task)

    def __call__(self, subject: Subject) -> Facts:
        """Compare."""
        said = subject.test()
        labels, classes = said.labels, said.logits.shape[1]
        before = None if subject.dense is None else subject.dense.test()
        changed = torch.zeros_like(said.right) if before is None else said.predicted != before.predicted
        rows = []
        for name, group in groups_of(subject.task, labels, classes).items():
            row: Facts = {
                "group": name,
                "samples": int(group.sum()),
                "error": 1 - float(said.right[group].double().mean()),
            }
            if before is not None:
                row |= _moved(before, said, group)
                over = exemplars.over_indexing(changed, group)
                row["over-indexing"] = None if math.isnan(over) else over
            rows.append(row)
        large = [row for row in rows if row["samples"] >= self.least] or rows
        worst = max(large, key=lambda row: row["error"])
        facts: Facts = {"error": 1 - said.accuracy, "worst group": worst["group"], "worst error": worst["error"]}
        if before is not None:
            pays = max(large, key=lambda row: row["excess"] or 0.0)
            facts |= {"changed samples": float(changed.double().mean()), "pays most": pays["group"]}
            facts |= {"its excess": pays["excess"]}
        return facts | {"groups": rows}


def _moved(before: Outputs, said: Outputs, group: Tensor) -> Facts:
    """How the error of a group moved, and by how much more than that of the rest."""
    facts: Facts = {"dense error": 1 - float(before.right[group].double().mean()), "excess": None, "z": None}
    if not bool(group.all()):
        worse = (before.right.double() - said.right.double())[None]  # 1 where only the dense network is right
        spread = exemplars.contrast(worse, group)[0]
        error = float(spread.std(ddof=1)) / math.sqrt(len(spread))
        facts |= {"excess": float(spread.mean()), "z": float(spread.mean()) / error if error > 0 else None}
    return facts
