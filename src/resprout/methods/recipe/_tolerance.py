"""Cutting the smallest weights as long as validation loss stays within a tolerance, as a step; not a method."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Step
from ...core.run import Run
from ...core.steps import chooser
from ..allocate.global_ import Global
from ..rule._move import weights_only
from ..score.magnitude import Magnitude

TRIES = 40


def validation_loss(run: Run) -> float:
    """Return the loss on the split that choices go by.

    Raises:
        ResproutError: the task does not measure it.
    """
    found = run.metrics()
    if "loss" not in found:
        raise ResproutError(f"{type(run.task).__name__}.evaluate must return its 'loss' beside {', '.join(found)}")
    return float(found["loss"])


@dataclass(frozen=True)
class Weigh(Step):
    """Measure the loss on the split that choices go by."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Measure it."""
        return {"loss": validation_loss(run)}


@dataclass(frozen=True)
class WithinTolerance(Step):
    """Cut all weights below T, the largest threshold with a loss of at most (1 + `tolerance`) times that of now.

    T is found by bisection, first at the mean magnitude, until the losses on both sides differ by less than a twentieth of the
    bound. Never more is cut than `budget` asks for.
    """

    tolerance: float
    budget: Budget
    floor: int = 0

    def __call__(self, run: Run) -> dict[str, Any]:
        """Try thresholds on a fork, and cut; the facts are T, the losses before and after, and if the budget is met.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "a threshold on magnitudes")
        fork, bound = run.fork(), (1 + self.tolerance) * validation_loss(run)
        sizes = torch.cat([w.detach()[run.masks[n]].abs().double() for n, w in run.weights().items()])
        kept = {n: w.detach().clone() for n, w in run.weights().items()}

        def loss(threshold: float) -> float:
            with torch.no_grad():
                for name, weight in fork.weights().items():
                    weight.copy_(kept[name] * (kept[name].abs().double() >= threshold))
            return validation_loss(fork)

        low, high = float(sizes.min()), float(sizes.max())
        at, below, above = float(sizes.mean()), bound / (1 + self.tolerance), loss(high)
        for _ in range(TRIES):
            if (value := loss(at)) <= bound:
                low, below = at, value
            else:
                high, above = at, value
            if abs(above - below) < 0.05 * bound or high - low < 1e-9 * high:
                break
            at = (low + high) / 2
        choose = chooser(run.probe_with(), Magnitude(), Global(), self.floor)
        least = sum(min(self.floor, count) for count in run.masks.counts.values())
        keep = max(least, int((sizes >= low).sum()))
        masks = choose(keep)
        met = self.budget.met(self.budget.cost(run.model, masks))
        if met:
            masks = self.budget.keep(run.model, choose, keep, run.masks.alive)
        return {"threshold": low, "bound": bound, "loss": below, "met": met} | run.set_masks(masks)
