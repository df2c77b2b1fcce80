"""Bidirectional, iterative: cut 30 % of the living again and again past the cliff, then regrow the damaged layers in rounds.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Fill, Recipe, Recover, Score
from ...core.run import Run
from ...core.steps import Arrive, Look, Prune
from ..allocate.lamp import Lamp
from ..fill.zero import Zero
from ..recover.finetune import Finetune
from ..score.magnitude import Magnitude
from ..score.saliency import Saliency
from ..search.damage import Damage
from ._plan import plan
from ._regrowth import ALLOCATORS, regrow


@dataclass(frozen=True)
class BidirectionalIterative(Recipe):
    """The published procedure in `epochs` in all: `down` of them on the way to a stump of `stump` * target weights.

    The paper: rate 0.3, 40 epochs a cut, up to 15 cuts; 4-8 regrowths of 0.1-0.5 % of all weights, each allocated by a
    controller of 300 episodes with 40-epoch fine-tunes. The controller's steps come on top and are counted apart;
    `allocator` "proportional", "greedy" or "global" need none. Choices are made on validation data, or with
    `paper_protocol` on test data as the paper did (the result is labelled then).
    """

    epochs: float = 8
    rate: float = 0.3
    stump: float = 0.5
    down: float = 0.6
    rounds: int = 4
    fractions: tuple[float, ...] = (0.001, 0.002, 0.003, 0.004, 0.005)
    allocator: str = "policy_gradient"
    controller: tuple[int, float] = (300, 40.0)
    damage: Damage = Damage()  # noqa: RUF009
    cut_score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Lamp()  # noqa: RUF009
    score: Score = Saliency()  # noqa: RUF009
    fill: Fill = Zero()  # noqa: RUF009
    recover: Recover = Finetune()  # noqa: RUF009
    floor: int = 1
    paper_protocol: bool = False
    key: ClassVar[str | None] = "bidirectional"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.allocator not in ALLOCATORS:
            raise ResproutError(f"allocator must be one of {', '.join(ALLOCATORS)}, got {self.allocator!r}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk from the stump of the smallest budget to the largest."""
        run.chooses_on = "test" if self.paper_protocol else "validation"
        plans = plan(run, budgets, self.cut_score, self.allocate, self.floor)
        steps = max(2, round(self.epochs * run.task.steps_per_epoch))
        stump = self.stump * next(iter(plans.values())) / run.units.total
        cuts = max(1, math.ceil(math.log(stump) / math.log(1 - self.rate)))
        each = max(1, round(self.down * steps / cuts))
        curve = [(0.0, run.do(Look())["validation"])]
        for i in range(1, cuts + 1):
            sparsity = 1 - max(stump, (1 - self.rate) ** i)
            run.do(Prune(sparsity, self.cut_score, self.allocate, floor=self.floor))
            for step in self.recover(each):
                curve.append((sparsity, run.do(step).get("validation", curve[-1][1])))
        for budget in plans:
            share = round((1 - self.down) * steps / len(plans))
            regrow(run, self, budget, plans[budget], share, curve)
            run.do(Arrive(budget))
