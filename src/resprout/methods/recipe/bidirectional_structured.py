"""Bidirectional, structured: cut channels gradually past the target, then bring the most salient back wherever they are coupled.

The structured twin in "Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff",
arXiv:2511.11675, with a gradual cut; the default of `resprout fit` for channels, heads and layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Fill, Recipe, Score
from ...core.run import Run
from ...core.steps import Arrive, Meet, Regrow
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..fill.anchor import Anchor
from ..rule.gradual import Gradual
from ..schedule.cosine import Cosine
from ..schedule.cubic import Cubic
from ..score.oracle import Oracle
from ..score.saliency import Saliency
from ._plan import plan, usual


@dataclass(frozen=True)
class BidirectionalStructured(Recipe):
    """The smallest budget gets `epochs`: until `down` a cut to `stump` of its units, then `rounds` regrowths until `up`.

    Each larger budget regrows from the last network, with `more` times as many epochs. Left out, `cut_score` is Taylor and
    `score`, by which the dead come back, saliency; of whole layers the oracle is both.
    """

    epochs: float = 8
    stump: float = 0.85
    down: float = 0.4
    up: float = 0.6
    rounds: int = 2
    more: float = 0.25
    lr: float = 0.05
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score | None = None
    cut_score: Score | None = None
    allocate: Allocation = Global()  # noqa: RUF009
    fill: Fill = Anchor()  # noqa: RUF009
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"
    key: ClassVar[str | None] = "bidirectional"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk from the stump of the smallest budget to the largest."""
        cut = usual(run, self.cut_score)
        score = self.score or (cut if isinstance(cut, Oracle) else Saliency())
        plans, total = plan(run, budgets, cut, self.allocate, self.floor), run.units.total
        for i, (budget, keep) in enumerate(plans.items()):
            steps = max(self.rounds + 2, round(self.epochs * (self.more if i else 1) * run.task.steps_per_epoch))
            lr = Cosine(self.lr / 2 if i else self.lr, 0.0, warmup=0.05)
            done = 0 if i else round(self.down * steps)
            if done:
                stump = Cubic(0.0, 1 - max(1, round(self.stump * keep)) / total)
                rule = Gradual(stump, None, 0.9, 16, cut, self.allocate, self.floor, budget)
                run.do(Train(done, lr, self.optimizer, rule, span=(0.0, done / steps), looks=3))
            low, until = run.here["units"], round((0.1 if i else self.up) * steps)
            for r in range(1, self.rounds + 1):
                if r < self.rounds:
                    sparsity = 1 - (low + (keep - low) * r // self.rounds) / total
                    run.do(Regrow(sparsity, score, self.allocate, self.fill))
                else:
                    run.do(Meet(budget, score, self.allocate, self.fill, self.floor))
                end = steps if r == self.rounds else done + (until - done) * r // self.rounds
                end = max(done + 1, end)
                run.do(Train(end - done, lr, self.optimizer, span=(done / steps, end / steps), looks=4))
                done = end
            run.do(Arrive(budget))
