"""An agent that is pruned while it learns: gradual magnitude pruning in the middle of deep Q-learning, from a wide network.

Obando-Ceron, Courville, Castro: "In value-based deep reinforcement learning, a pruned network is a good network", ICML 2024,
arXiv:2402.12479. The paper plays Atari with DQN and Rainbow; here is DQN, and any world (`core/played.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core.budget import Budget
from ..core.errors import ResproutError
from ..core.kinds import Allocation, Fidelity, Recipe, Score
from ..core.run import Run
from ..core.steps import Arrive
from ..core.train import Optimizer
from ..methods.allocate.uniform import Uniform
from ..methods.recipe._plan import plan
from ..methods.rule.gradual import Gradual
from ..methods.schedule.constant import Constant
from ..methods.schedule.cubic import Cubic
from ..methods.score.magnitude import Magnitude
from ._steps import Diagnose, Play


@dataclass(frozen=True)
class RlGmp(Recipe):
    """The agent learns for `epochs` in all, from the network as it comes; the largest budget first, each has its share.

    Sparsity rises along the cubic curve between the parts `begin` and `until` of the steps. After each arrival the agent is
    looked at (`Diagnose`). `fit` needs `curve=False`: there is no trained network to scan.
    """

    epochs: float = 20
    begin: float = 0.2
    until: float = 0.8
    every: int = 100
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Uniform()  # noqa: RUF009
    lr: float = 5e-4
    optimizer: Optimizer = Optimizer("adamw", decay=0.0)  # noqa: RUF009
    key: ClassVar[str | None] = "rl-gmp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not (0 <= self.begin < self.until <= 1 and self.every >= 1):
            raise ResproutError(
                f"weights are cut from begin to until, 0 <= begin < until <= 1, every so many steps; got begin={self.begin:g}, "
                f"until={self.until:g}, every={self.every}"
            )

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(budgets)))
        plans = plan(run, budgets, self.score, self.allocate, 1)
        for budget in reversed(plans):
            total = run.units.total
            way = Cubic(1 - run.here["units"] / total, 1 - plans[budget] / total)
            rule = Gradual(way, budget, self.until, self.every, self.score, self.allocate, 1, since=self.begin)
            run.do(Play(steps, Constant(self.lr), self.optimizer, rule))
            run.do(Arrive(budget))
            run.do(Diagnose())
