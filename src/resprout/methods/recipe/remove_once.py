"""Remove once: a remover takes units out until the budget is met, and what is left recovers. One way, for each budget.

The common form of structured pruning of language models, such as Men et al.: "ShortGPT", arXiv:2403.03853, and Sandri et
al.: "2SSP", TMLR 2025, arXiv:2501.17771.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.granularity import Units
from ...core.kinds import Fidelity, Recipe, Recover, Remover
from ...core.run import Run
from ...core.steps import Arrive, Remove
from ..recover.finetune import Finetune


@dataclass(frozen=True)
class RemoveOnce(Recipe):
    """The largest budget first; each has its share of `epochs` (0: nothing is trained). Whole units that left stay away."""

    remover: Remover
    epochs: float = 1
    recover: Recover = Finetune()  # noqa: RUF009
    fidelity: ClassVar[Fidelity] = "smoke-tested"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        steps = round(self.epochs * run.task.steps_per_epoch / len(budgets))
        for budget in sorted(budgets, key=lambda b: b.share(b.cost(run.model, run.masks))):
            run.do(Remove(budget, self.remover))
            for step in self.recover(steps) if steps else ():
                run.do(step)
            run.do(Arrive(budget, grow=not isinstance(run.granularity, Units)))
