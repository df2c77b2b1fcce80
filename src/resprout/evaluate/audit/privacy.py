"""Privacy: can one tell from what a network says whether a sample was in its training data? Five membership attacks.

Wang, Wang, Wang, Zhou, Liu, Bi, Ding, Rajasekaran: "Against Membership Inference Attack: Pruning is All You Need", IJCAI 2021,
arXiv:2008.13578; attacks of Yeom et al., CSF 2018, arXiv:1709.01604 (loss), Salem et al., NDSS 2019, arXiv:1806.01246 (confidence
and entropy), Song, Mittal, USENIX Security 2021, arXiv:2003.10595 (modified entropy), Nasr, Shokri, Houmansadr, CCS 2018,
arXiv:1807.05852 (a network); true positives at few false positives after Carlini et al., S&P 2022, arXiv:2112.03570.

All five see one network only: shadow networks would find more. That an attack fails here is no promise: pruning can raise leakage
(Yuan, Zhang, USENIX Security 2022, arXiv:2202.03335).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity
from ...core.run import mix
from ...core.task import Task
from ..membership import ATTACKS, attacked, best_threshold, network_attack
from ._audit import Audit, Facts, Subject, classifies


@dataclass(frozen=True)
class Privacy(Audit):
    """As many members (training samples, not augmented) as strangers (test samples), at most `samples` of each.

    `rate` is the false-positive rate at which the true-positive rate is told. Intervals are of `level`, by `draws` draws of
    the bootstrap over members and strangers. An attack's accuracy is that of a threshold found on one half, on the other half.
    """

    samples: int = 2000
    rate: float = 0.01
    draws: int = 500
    level: float = 0.95
    key: ClassVar[str | None] = "mia-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def check(self, task: Task) -> None:
        """Look at one batch.

        Raises:
            ResproutError: no classification, or settings that are none.
        """
        classifies(task)
        if self.samples < 4 or not 0 < self.rate < 1 or self.draws < 1 or not 0 < self.level < 1:
            raise ResproutError("privacy needs four samples, a rate and a level between 0 and 1, and draws")

    def __call__(self, subject: Subject) -> Facts:
        """Attack."""
        test = subject.test()
        count = min(self.samples, len(test.labels))
        members = subject.members(count)
        count = len(members.labels)  # a small training set
        order = torch.randperm(
            len(test.labels), generator=torch.Generator().manual_seed(mix(subject.seed, "strangers"))
        )
        strangers = type(test)(test.logits[order[:count]], test.labels[order[:count]])
        rows = []
        for name, attack in ATTACKS.items():
            inside, outside = attack(members), attack(strangers)
            rows.append({"attack": name} | self._judged(inside, outside, subject.seed))
        inside, outside = network_attack(members, strangers, mix(subject.seed, "attacker"))
        rows.append({"attack": "network"} | self._judged(inside, outside, subject.seed))
        worst = max(rows, key=lambda row: row["auc"])
        facts: Facts = {"members": count, "generalisation gap": members.accuracy - test.accuracy}
        facts |= {"worst attack": worst["attack"], "auc": worst["auc"], "auc interval": worst["auc interval"]}
        facts |= {f"tpr at {100 * self.rate:g} % fpr": max(row["tpr"] for row in rows)}
        return facts | {"attack accuracy": max(row["accuracy"] for row in rows), "attacks": rows}

    def _judged(self, inside: Tensor, outside: Tensor, seed: int) -> Facts:
        found = attacked(inside, outside, self.rate, self.draws, self.level, seed)
        halves = [(s[::2], s[1::2]) for s in (inside, outside)]  # both came in random order
        at = best_threshold(halves[0][0], halves[1][0])
        right = float((halves[0][1] >= at).double().mean() + (halves[1][1] < at).double().mean()) / 2
        return {"auc": found.auc, "auc interval": list(found.auc_interval), "tpr": found.tpr} | {
            "tpr interval": list(found.tpr_interval), "accuracy": right,
        }  # fmt: skip
