"""GraNet: gradual pruning with zero-cost neuroregeneration, from a dense network or from a sparse one.

Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang, Mocanu: "Sparse Training via Boosting Pruning Plasticity with
Neuroregeneration", NeurIPS 2021, arXiv:2106.10404. There every 1000 steps of 160 epochs from random weights; only weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Recipe, Schedule
from ...core.run import Run
from ...core.steps import Arrive, Prune, Rewind
from ...core.train import Optimizer, Train
from ..allocate.erk import Erk
from ..allocate.global_ import Global
from ..rule._move import weights_only
from ..rule.neuroregeneration import Neuroregeneration
from ..schedule.cosine import Cosine
from ..schedule.cubic import Cubic
from ..score.magnitude import Magnitude
from ..score.random import Random
from ._plan import plan


@dataclass(frozen=True)
class Granet(Recipe):
    """Each budget gets its share of `epochs`, the largest first, and is reached after the fraction `until` of them.

    `fresh` begins at the point "start", before any training; with `initial` below 1 at random masks of that density, spread by
    ERK (the paper: 0.5). `fraction` is what is swapped in each layer; without it this is gradual pruning, bit for bit.
    """

    epochs: float = 8
    initial: float = 1.0
    until: float = 0.5
    every: int = 16
    fraction: Schedule = Cosine(0.5, 0.005)  # noqa: RUF009
    fresh: bool = False
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "granet"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 < self.initial <= 1:
            raise ResproutError(f"initial is a density in (0, 1], got {self.initial:g}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "granet")
        plans = plan(run, budgets, Magnitude(), self.allocate, self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        total = run.units.total
        if self.initial * total < max(plans.values()):
            raise ResproutError(f"initial={self.initial:g} is sparser than the budget {list(plans)[-1]}; raise it")
        if self.fresh:
            run.do(Rewind("start"))
        if self.initial < 1:
            run.do(Prune(1 - self.initial, Random(), Erk(), floor=self.floor))
        for budget in reversed(plans):
            start, end = 1 - run.here["units"] / total, 1 - plans[budget] / total
            rule = Neuroregeneration(
                Cubic(start, end), budget, self.until, every=self.every, fraction=self.fraction, allocate=self.allocate,
                floor=self.floor,
            )  # fmt: skip
            run.do(Train(steps, Cosine(self.lr, 0.0, warmup=0.05), self.optimizer, rule, looks=8))
            run.do(Arrive(budget))
