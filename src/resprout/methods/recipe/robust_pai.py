"""Robust pruning at initialisation: random weights on the edge of chaos, cut by sensitivity, rescaled back to it, trained.

Hayou, Ton, Doucet, Teh: "Robust Pruning at Initialization", ICLR 2021, arXiv:2002.08797. Its rescaling formula is an option;
the match layer by layer is ours, for masks that are scored on data. A factor becomes part of the weight here, where the paper
trains through it. Its Stable ResNet, another network, is not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Allocation, Fidelity, Recipe, Score
from ...core.run import Run
from ...core.steps import Arrive, Mark, Meet, Rewind
from ...core.train import Optimizer, Train
from ..allocate.global_ import Global
from ..schedule.cosine import Cosine
from ..score.snip import Snip
from ._edge import How, OnTheEdge, Rescale
from ._plan import plan


@dataclass(frozen=True)
class RobustPai(Recipe):
    """Each budget, the largest first, begins at the same random weights and has its share of `epochs`.

    `activation` is the network's ("relu", "tanh", "gelu", "linear"), `bias` the spread sigma_b of biases (0 for ReLU).
    """

    epochs: float = 40
    activation: str = "relu"
    bias: float = 0.0
    rescale: How = "match"
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    score: Score = Snip()  # noqa: RUF009
    allocate: Allocation = Global()  # noqa: RUF009
    floor: int = 1
    key: ClassVar[str | None] = "robust-pai"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.rescale not in ("match", "formula", "none"):
            raise ResproutError(f"rescale must be 'match', 'formula' or 'none', got {self.rescale!r}")
        if not self.bias >= 0:
            raise ResproutError(f"bias, the spread of biases, must be 0 or more, got {self.bias:g}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        run.do(Rewind("start", masks=True))
        run.do(OnTheEdge(self.activation, self.bias))
        run.do(Mark("edge"))
        plans = plan(run, budgets, self.score, self.allocate, self.floor)
        steps = max(1, round(self.epochs * run.task.steps_per_epoch / len(plans)))
        for budget in reversed(plans):
            run.do(Rewind("edge", masks=True))
            run.do(Meet(budget, self.score, self.allocate, floor=self.floor))
            if self.rescale != "none":
                run.do(Rescale("edge", self.rescale))
            run.do(Train(steps, Cosine(self.lr, 0.0, warmup=0.05), self.optimizer, looks=8))
            run.do(Arrive(budget))
