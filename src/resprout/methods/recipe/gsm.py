"""GSM: few weights learn at a time and the others fade, so that the cut at the end takes only what is nearly zero.

Ding, Ding, Zhou, Guo, Han, Liu: "Global Sparse Momentum SGD for Pruning Very Deep Neural Networks", NeurIPS 2019,
arXiv:1909.12778. There 600 epochs at decay 1e-4; nothing is trained after the cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recipe, Schedule, Step
from ...core.run import Run
from ...core.steps import Arrive, Meet
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..rule._move import weights_only
from ..rule.global_momentum import GlobalMomentum, course, shrinkage
from ..schedule.cosine import Cosine
from ..score.magnitude import Magnitude
from ._plan import plan

LEAST = 8.0  # exp(-8): at less, weights are cut that still matter
ASKED = 10.0


@dataclass(frozen=True)
class Gsm(Recipe):
    """From a trained network; each budget has its share of `epochs`, the largest first. As many weights learn as it allows.

    Weights that never learn shrink by exp(-learning rates * decay / (1 - momentum)). Left out, `decay` is what makes that
    exp(-10) in the epochs at hand; one that makes it more than exp(-8) is refused before any training.
    """

    epochs: float = 40
    lr: Schedule = Cosine(0.02, 0.0)  # noqa: RUF009
    momentum: float = 0.98
    decay: float | None = None
    floor: int = 0
    key: ClassVar[str | None] = "gsm"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 < self.momentum < 1:
            raise ResproutError(f"momentum must lie between 0 and 1, got {self.momentum:g}")

    def optimizer(self, steps: int) -> Optimizer:
        """Return the optimizer of a training of so many steps."""
        fading = ASKED * (1 - self.momentum) / course(self.lr, steps)
        return Optimizer("sgd", self.momentum, fading if self.decay is None else self.decay, nesterov=False)

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "gsm")
        plans = plan(run, budgets, Magnitude(), Global(), self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        optimizer = self.optimizer(steps)
        run.do(Foresee(self.lr, optimizer, steps))
        for budget in reversed(plans):
            run.do(Train(steps, self.lr, optimizer, GlobalMomentum(plans[budget])))
            run.do(Meet(budget, Magnitude(), Global(), floor=self.floor))
            run.do(Arrive(budget))


@dataclass(frozen=True)
class Foresee(Step):
    """Say how far weights that never learn will shrink in a training."""

    lr: Schedule
    optimizer: Optimizer
    steps: int

    def __call__(self, run: Run) -> dict[str, Any]:
        """Say it.

        Raises:
            ResproutError: not far enough.
        """
        found, decay = shrinkage(self.lr, self.optimizer, self.steps), self.optimizer.decay
        if found < LEAST - 1e-9:
            raise ResproutError(
                f"in {self.steps:,} steps weights that never learn shrink only by exp(-{found:.2f}), and cutting them would "
                f"hurt: at least exp(-{LEAST:g}) is needed; give {LEAST / max(found, 1e-9):.1f} times the epochs or a decay of "
                f"{decay * LEAST / max(found, 1e-9):.2g}, or leave decay out"
            )
        return {"exponent": found, "decay": decay, "says": f"passive weights: exp(-{found:.1f})"}
