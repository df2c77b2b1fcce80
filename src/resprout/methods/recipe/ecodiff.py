"""EcoDiff: learn which heads and MLP units a diffusion model needs, through all its moves at once; its weights stand still.

Zhang, Jin, Zhang, Wang, Chen: "Effortless Efficiency: Low-Cost Pruning of Diffusion Models", arXiv:2412.02852.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Gate, Objective, Recipe
from ...core.learn import Learn
from ...core.run import Run
from ...core.steps import Arrive
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..gate.hard_concrete import HardConcrete
from ..objective.final_latents import FinalLatents
from ..schedule.constant import Constant
from ..schedule.cubic import Cubic
from ..score.magnitude import Magnitude
from ._plan import plan


@dataclass(frozen=True)
class Ecodiff(Recipe):
    """Masks are learned for `epochs` in all, the largest budget first; then the units of the lowest scores leave.

    For granularity "width" (heads and MLP units; ignore what makes the width of the tokens) or "head". Nothing else is trained;
    the paper's short retraining by low-rank adapters is another recipe's, after this one. Scores are ranked as they are, whatever
    a head or an MLP unit costs.
    """

    epochs: float = 4
    gate: Gate = HardConcrete()  # noqa: RUF009
    objective: Objective = FinalLatents()  # noqa: RUF009
    lr: float = 0.1
    optimizer: Optimizer = Optimizer("adamw")  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    key: ClassVar[str | None] = "ecodiff"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(budgets)))
        plans = plan(run, budgets, Magnitude(), self.allocate, 0)
        for budget in reversed(plans):
            train = Train(steps, Constant(self.lr), self.optimizer, objective=self.objective)
            way, keep = Cubic(0.0, 1.0), plans[budget]  # which only the looks on the way go by
            run.do(Learn(train, self.gate, keep, way, 0.0, 1.0, self.allocate, weights=False, budget=budget))
            run.do(Arrive(budget))
