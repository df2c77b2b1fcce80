"""Calibration: how far the probabilities can be believed: expected calibration error, likelihood, Brier score.

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599. The temperature is the one
that gives validation data the greatest likelihood, as there; `error scaled` is what is left of the error with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity
from ...core.task import Task
from ..calibration import reliability
from ..outputs import Outputs, outputs
from ._audit import Audit, Facts, Subject, classifies


@dataclass(frozen=True)
class Calibration(Audit):
    """The error over `bins` of confidence of equal width."""

    bins: int = 15
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def check(self, task: Task) -> None:
        """Look at one batch.

        Raises:
            ResproutError: no classification, or no bin.
        """
        classifies(task)
        if self.bins < 1:
            raise ResproutError(f"bins must be 1 or more, got {self.bins}")

    def __call__(self, subject: Subject) -> Facts:
        """Measure."""
        said = subject.test()
        validation = outputs(subject.model, subject.task, "validation")
        heat = 1.0 if validation is None else temperature(validation)
        scaled = Outputs(said.logits / heat, said.labels)
        truth = torch.nn.functional.one_hot(said.labels, said.logits.shape[1])
        brier = float((said.logits.double().softmax(1) - truth).square().sum(1).mean())
        facts: Facts = {"error": said.calibration_error(self.bins), "confidence": float(said.confidence.mean())}
        facts |= {"accuracy": said.accuracy, "likelihood loss": said.loss, "brier": brier}
        facts |= {"temperature": heat, "error scaled": scaled.calibration_error(self.bins)}
        bins = reliability(said, self.bins)
        rows = zip(bins.counts, bins.confidence, bins.right, strict=True)
        facts["bins"] = [{"samples": n, "confidence": c / n, "accuracy": r / n} for n, c, r in rows if n]
        return facts


def temperature(said: Outputs, low: float = 0.02, high: float = 50.0) -> float:
    """Return the temperature T that makes the mean cross-entropy of logits / T least, by golden section over log T.

    The loss is convex in 1 / T, so it has one valley.
    """
    logits, labels = said.logits.double(), said.labels

    def loss(log: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits / log.exp(), labels))

    a, b = torch.tensor([low, high], dtype=torch.float64).log()
    ratio = (5**0.5 - 1) / 2
    for _ in range(40):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        a, b = (a, d) if loss(c) <= loss(d) else (c, b)
    return float(((a + b) / 2).exp())
