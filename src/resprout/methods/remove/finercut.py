"""FinerCut: attention and MLP sublayers leave one by one, each time that without which the network's outputs move least.

Zhang, Lu, Wang, Chen, Ding, Xia: "FinerCut: Finer-grained Interpretable Layer Pruning for Large Language Models", NeurIPS 2024
workshop, arXiv:2405.18218.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Remover
from ...core.run import Run
from ._greedy import Measure, Trials, attainable, greedy, layers


@dataclass(frozen=True)
class FinerCut(Remover):
    """Greedy over all residual branches, until the budget is met: the paper's fraction of layers is what the budget says here.

    `measure` is the distance of the outputs from the dense network's: "js" of the next token's distribution, "angular" or
    "euclidean" of the hidden state behind the last block; with "loss" the loss itself. Which distance is the paper's default
    we do not know. After `every` removals all are tried anew; `batches`: look at so many only (the paper: ten sequences).
    """

    measure: Measure = "js"
    every: int = 1
    batches: int | None = None
    key: ClassVar[str | None] = "finercut"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ResproutError(f"every must be 1 or more, got {self.every}")

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take them out; `removed` lists them in order, with the distance after each."""
        branches = layers(run)
        attainable(run, budget, branches)
        trials = Trials(run, self.measure, self.batches)
        queues = [[branch] for branch in branches]
        removed = greedy(trials, queues, lambda: budget.met(budget.cost(run.model, run.masks)), self.every)
        return trials.findings(removed=removed)
