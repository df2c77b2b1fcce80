"""One-way: prune and never regrow; iterative, one-shot or gradual. The control at equal training steps.

Han, Pool, Tran, Dally, NeurIPS 2015, arXiv:1506.02626 (iterative); Zhu, Gupta, ICLR 2018 workshop, arXiv:1710.01878
(gradual); Lee et al., ICLR 2021, arXiv:2010.07611 (the allocation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.granularity import Units
from ...core.kinds import Allocation, Fidelity, Recipe, Score
from ...core.run import Run
from ...core.steps import Arrive, Meet, Prune
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..allocate.lamp import Lamp
from ..rule.gradual import Gradual
from ..schedule.cosine import Cosine
from ..schedule.cubic import Cubic
from ..schedule.geometric import Geometric
from ._plan import plan, usual


@dataclass(frozen=True)
class OneWay(Recipe):
    """From the dense network down through the budgets, the largest first; each has its share of `epochs`.

    Left out, `score` is magnitude and `allocate` is LAMP; of coupled units one global ranking, by Taylor or, of whole layers, by
    the oracle (docs/structure.md).
    """

    epochs: float = 8
    mode: str = "gradual"
    until: float = 0.5
    rounds: int = 5
    every: int = 16
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score | None = None
    allocate: Allocation | None = None
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.mode not in ("gradual", "iterative", "oneshot"):
            raise ResproutError(f"mode must be 'gradual', 'iterative' or 'oneshot', got {self.mode!r}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(budgets)))
        lr = Cosine(self.lr, 0.0, warmup=0.05)
        score = usual(run, self.score)
        allocate = self.allocate or (Global() if isinstance(run.granularity, Units) else Lamp())
        plans = plan(run, budgets, score, allocate, self.floor)
        for budget in reversed(plans):
            total = run.units.total
            start, end = 1 - run.here["units"] / total, 1 - plans[budget] / total
            if self.mode == "gradual":
                rule = Gradual(Cubic(start, end), budget, self.until, self.every, score, allocate, self.floor)
                run.do(Train(steps, lr, self.optimizer, rule, looks=8))
            else:
                rounds = self.rounds if self.mode == "iterative" else 1
                for i in range(1, rounds + 1):
                    sparsity = Geometric(start, end)(i / rounds)
                    if i < rounds:
                        run.do(Prune(sparsity, score, allocate, floor=self.floor))
                    else:
                        run.do(Meet(budget, score, allocate, floor=self.floor))
                    share = steps * i // rounds - steps * (i - 1) // rounds
                    run.do(Train(max(1, share), lr, self.optimizer, span=((i - 1) / rounds, i / rounds)))
            run.do(Arrive(budget))
