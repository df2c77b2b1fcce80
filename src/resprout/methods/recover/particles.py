"""Particles: several networks are trained from one point in different orders of the data, and their mean is what remains.

Choi, Lee, Nam, Lee: "Sparse Weight Averaging with Multiple Particles for Iterative Magnitude Pruning", ICLR 2024,
arXiv:2305.14852.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recover, Rule, Schedule, Step
from ...core.masks import Masks
from ...core.norms import refresh
from ...core.run import Run
from ...core.steps import Mark, Rewind
from ...core.train import Optimizer, Train
from ..rule.swa import Swa
from ..schedule.settling import Settling


@dataclass(frozen=True)
class Particles(Recover):
    """Rewind to `to` and train, `particles` times, each in its part of the steps; then average them.

    The fraction `average` at the end of each training goes into its own mean (0: its last weights count). One after another
    on the run itself, kept as points, they are checkpointed in the middle as any training is, and read on in the data. A
    single one that is not averaged is `WeightRewind`.
    """

    to: str = "start"
    particles: int = 4
    lr: Schedule = Settling(0.1, 0.05, warmup=0.05)  # noqa: RUF009
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    span: tuple[float, float] = (0.0, 1.0)
    average: float = 0.25
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.particles < 1 or not 0 <= self.average <= 1:
            raise ResproutError(
                f"particles must be 1 or more and average in [0, 1], got {self.particles} and {self.average:g}"
            )

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return the verbs."""
        verbs: list[Step] = []
        names = tuple(f"particle-{i}" for i in range(self.particles))
        rule = Swa(self.average / (self.span[1] - self.span[0])) if self.average else Rule()
        for i, name in enumerate(names):
            each = steps * (i + 1) // len(names) - steps * i // len(names)
            verbs += [Rewind(self.to), Train(max(1, each), self.lr, self.optimizer, rule, self.span), Mark(name)]
        return tuple(verbs[:-1]) if len(names) == 1 else (*verbs, Average(names))


@dataclass(frozen=True)
class Average(Step):
    """Put the mean of several points in place, and measure the statistics of batch norms anew."""

    points: tuple[str, ...]

    @torch.no_grad()
    def __call__(self, run: Run) -> dict[str, Any]:
        """Average; the facts say how far each point is from the mean (Euclidean, prunable weights).

        Raises:
            ResproutError: points under different masks, whose mean would have more weights than any of them.
        """
        states = [run.tensors_at(p) for p in self.points]
        kept = [Masks({n: run.points[p][f"mask:{n}"] for n in run.masks}) for p in self.points]
        if functools.reduce(operator.or_, kept) != functools.reduce(operator.and_, kept):
            raise ResproutError(f"the masks of {', '.join(self.points)} differ: only networks of one ticket average")
        for name, tensor in run.model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([s[name].double() for s in states]).mean(0))
        run.set_masks(kept[0])
        refresh(run.model, run.task)
        off = [float(sum((s[n].double() - w).square().sum() for n, w in run.weights().items())) ** 0.5 for s in states]
        return {"points": list(self.points), "off": off, "validation": run.evaluate()}
