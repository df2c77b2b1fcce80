"""Robustness: accuracy on images that were attacked (FGSM, PGD) and on images made worse (six corruptions).

Madry, Makelov, Schmidt, Tsipras, Vladu: "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
arXiv:1706.06083; Hendrycks, Dietterich: "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, arXiv:1903.12261 (kinds; the strengths are ours, see `evaluate/corruptions.py`).

PGD without restarts is an upper bound of the accuracy under attack, not a certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity
from ...core.modes import evaluating
from ...core.run import mix
from ...core.task import Task
from ..attack import fgsm, pgd, scale
from ..corruptions import SEVERITIES, SUITE, corrupt
from ._audit import Audit, Facts, Subject, classifies


@dataclass(frozen=True)
class Robustness(Audit):
    """On the first `samples` test images; `epsilon` is in units of a white pixel (1), before images are normalised.

    A step of PGD is 2.5 epsilon / steps, as published, from a random start within the box.
    """

    epsilon: float = 2 / 255
    steps: int = 10
    severities: tuple[int, ...] = (1, 3, 5)
    samples: int = 500
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def check(self, task: Task) -> None:
        """Look at one batch.

        Raises:
            ResproutError: no classification of images in [0, 1] before they were normalised; or severities that are none.
        """
        x = classifies(task)
        if not x.is_floating_point() or x.dim() != 4:
            raise ResproutError(f"the audit robustness is of images (samples, channels, height, width), got {x.shape}")
        if not set(self.severities) <= set(SEVERITIES) or self.samples < 1 or not self.epsilon >= 0 or self.steps < 1:
            raise ResproutError(
                f"robustness needs severities of {SEVERITIES}, samples, steps, and epsilon of 0 or more"
            )
        mean, std = scale(task, x)
        seen = x * std + mean
        if float(seen.min()) < -1e-3 or float(seen.max()) > 1 + 1e-3:
            raise ResproutError(
                "the audit robustness needs images in [0, 1]; a task that normalises says so by its `mean` and `std`"
            )

    def __call__(self, subject: Subject) -> Facts:
        """Attack, and corrupt."""
        x, y = subject.first(self.samples)
        mean, std = scale(subject.task, x)
        facts: Facts = {"samples": len(y), "clean": subject.say(x, y).accuracy}
        g = torch.Generator().manual_seed(mix(subject.seed, "pgd"))
        box, low, high = self.epsilon / std, -mean / std, (1 - mean) / std
        with evaluating(subject.model):
            loss = partial(_loss, subject.model)
            one = [fgsm(loss(b), a, box) for a, b in zip(x.split(250), y.split(250), strict=True)]
            facts["fgsm"] = subject.say(torch.cat(one).clamp(low, high), y).accuracy
            many = [
                pgd(loss(b), a, box, 2.5 * box / self.steps, self.steps, low, high, g)
                for a, b in zip(x.split(250), y.split(250), strict=True)
            ]
            facts["pgd"] = subject.say(torch.cat(many), y).accuracy
        seen, rows = (x * std + mean).clamp(0, 1), []
        for kind in SUITE:
            for severity in self.severities:
                worse = (corrupt(seen, kind, severity, subject.seed) - mean) / std
                rows.append({"corruption": kind.__name__, "severity": severity})
                rows[-1] |= {"accuracy": subject.say(worse, y).accuracy}
        if rows:
            facts["corrupted"] = sum(r["accuracy"] for r in rows) / len(rows)
            facts["corruptions"] = rows
        return facts


def _loss(model: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Inputs -> the loss that an attack makes large."""
    device = next(model.parameters()).device
    return lambda x: F.cross_entropy(model(x.to(device)).float(), labels.to(device))
