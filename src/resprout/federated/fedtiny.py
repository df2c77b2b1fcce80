"""FedTiny: clients choose among coarsely cut networks by shared batch norms, then move weights block by block while they train.

Huang, Zhang, Sun, Sun: "Distributed Pruning Towards Tiny Neural Networks in Federated Learning", ICDCS 2023, arXiv:2212.01977.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..core.budget import Budget
from ..core.errors import ResproutError
from ..core.kinds import Allocation, Fidelity, Recipe, Score
from ..core.run import Run
from ..core.steps import Arrive
from ..core.train import Optimizer
from ..methods.allocate.erk import Erk
from ..methods.schedule.cosine import Cosine
from ..methods.score.magnitude import Magnitude
from ._steps import Choose, Exchange, Round
from .clients import Federation


@dataclass(frozen=True)
class FedTiny(Recipe):
    """For each budget, the largest first: choose among `candidates`, then rounds of `local` epochs each, `epochs` in all.

    Every `every` rounds, until the part `until` of them, one of `blocks` blocks (prunable tensors in the network's order, as many
    in each; from the output to the input) exchanges 2 `share` of its weights, in the end none, by half a cosine. The network
    comes as the server has trained it. `candidates=1` and `until=0` are federated averaging of a network cut once.
    """

    epochs: float = 40
    federation: Federation = Federation()  # noqa: RUF009
    local: int = 2
    candidates: int = 5
    spread: float = 0.5
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Erk()  # noqa: RUF009
    share: float = 0.15
    every: int = 2
    until: float = 0.5
    blocks: int = 5
    lr: float = 0.05
    optimizer: Optimizer = Optimizer("sgd", nesterov=False)  # noqa: RUF009
    key: ClassVar[str | None] = "fedtiny"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if min(self.local, self.candidates, self.every, self.blocks) < 1 or not self.epochs > 0:
            raise ResproutError(
                f"local, candidates, every and blocks must be 1 or more, and epochs above 0; got {self}"
            )
        if not (0 <= self.share <= 0.5 and 0 <= self.until <= 1 and self.spread >= 0):
            raise ResproutError(f"share lies in [0, 0.5], until in [0, 1], and spread is 0 or more, got {self}")

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk."""
        rounds = max(1, round(self.epochs / self.local / len(budgets)))
        stop, blocks = round(self.until * rounds), blocks_of(list(run.masks), self.blocks)
        fraction = Cosine(2 * self.share, 0.0)
        for budget in sorted(budgets, key=lambda b: b.share(b.cost(run.model, run.masks))):
            run.do(Choose(self.federation, budget, self.candidates, self.spread, self.score, self.allocate))
            for i in range(rounds):
                run.do(Round(self.federation, self.local, self.lr, self.optimizer))
                if (i + 1) % self.every == 0 and i + 1 < stop:
                    block = blocks[-1 - (i // self.every) % len(blocks)]
                    run.do(Exchange(self.federation, block, fraction((i + 1) / stop)))
            run.do(Arrive(budget))


def blocks_of(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Return names in order as `count` blocks of about equal length, or one of each name where there are fewer."""
    count = min(count, len(names))
    ends = [round(i * len(names) / count) for i in range(count + 1)]
    return [tuple(names[a:b]) for a, b in pairwise(ends)]
