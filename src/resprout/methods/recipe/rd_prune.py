"""RD pruning: measure what each layer's cut does to the outputs, divide the weights among layers exactly, cut, train.

Xu, Wang, Geng, Lin, Wu, Li, Lin: "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks", ICCV
2023, arXiv:2308.10438 (there a fifth of the weights a round; a round here takes the same share of what is left).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recipe, Recover
from ...core.run import Run
from ...core.steps import Arrive, Meet, Prune, Search
from ..allocate.global_ import Global
from ..allocate.rate_distortion import RateDistortion
from ..recover.finetune import Finetune
from ..rule._move import weights_only
from ..schedule.geometric import Geometric
from ..score.magnitude import Magnitude
from ..search.distortion import LEVELS, Distortion
from ._plan import plan


@dataclass(frozen=True)
class RdPrune(Recipe):
    """`rounds` to each budget, the largest first; `epochs` are shared by all (0: nothing is trained)."""

    epochs: float = 8
    rounds: int = 1
    levels: tuple[float, ...] = LEVELS
    batches: int = 2
    worst: bool = False
    recover: Recover = Finetune()  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "rd-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ResproutError(f"rounds must be 1 or more, got {self.rounds}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk.

        Raises:
            ResproutError: a run whose units are not weights.
        """
        weights_only(run, "rd_prune")
        plans = plan(run, budgets, Magnitude(), Global(), self.floor)
        steps = round(self.epochs * run.task.steps_per_epoch / (len(plans) * self.rounds))
        total = run.masks.total
        for budget in reversed(plans):
            start, end = 1 - run.here["units"] / total, 1 - plans[budget] / total
            for i in range(1, self.rounds + 1):
                found = run.do(Search(Distortion(self.levels, self.batches, self.worst)))
                tables = {n: tuple(row) for n, row in found["tables"].items()}
                allocate = RateDistortion(self.levels, tables)
                if i < self.rounds:
                    sparsity = Geometric(start, end)(i / self.rounds)
                    run.do(Prune(sparsity, Magnitude(), allocate, floor=self.floor))
                else:
                    run.do(Meet(budget, Magnitude(), allocate, floor=self.floor))
                for step in self.recover(steps) if steps else ():
                    run.do(step)
            run.do(Arrive(budget))
