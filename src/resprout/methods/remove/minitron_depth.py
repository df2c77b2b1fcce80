"""Minitron, depth: the blocks in a row whose removal raises the loss least, or changes the residual stream least.

Sreenivas, Muralidharan, Joshi, Chochowski, Patwary, Shoeybi, Catanzaro, Kautz, Molchanov: "LLM Pruning and Distillation in
Practice: The Minitron Approach", arXiv:2408.11796. Block influence is that of Men et al.: "ShortGPT", arXiv:2403.03853.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from ...core.budget import Budget
from ...core.kinds import Fidelity, Remover
from ...core.run import Run
from ._greedy import Candidate, Trials, attainable, blocks, left, shortest
from ._stream import apart


def influence(before: Tensor, after: Tensor) -> Tensor:
    """Return 1 - cos, the mean over all but the features."""
    return (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).mean()


@dataclass(frozen=True)
class MinitronDepth(Remover):
    """Of all runs of n blocks, the fewest that meet the budget, that of least loss without it, or of least block influence.

    Not `contiguous`, blocks leave in the order of what each alone is worth (with `by="influence"` this is ShortGPT).
    `batches`: look at so many only. The paper's retraining by distillation is a recovery of the recipe.
    """

    by: Literal["loss", "influence"] = "loss"
    contiguous: bool = True
    batches: int | None = None
    key: ClassVar[str | None] = "minitron"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take them out; `values` are what was found, by the first block of each run."""
        stack = blocks(run)
        if self.contiguous:
            n, rows = shortest(run, budget, stack)
        else:
            attainable(run, budget, stack)
            n, rows = 1, dict(enumerate(stack))
        if not n:
            return {"values": {}, "removed": []}
        values = self._values(run, stack, n, rows)
        order = sorted(rows, key=values.__getitem__)
        removed = []
        for at in order[:1] if self.contiguous else order:
            if not self.contiguous and budget.met(budget.cost(run.model, run.masks)):
                break
            run.set_masks(left(run.masks, run.groups, rows[at]))
            removed.append({"unit": rows[at].name, "blocks": n, self.by: values[at]})
        return {"values": {rows[at].name: values[at] for at in rows}, "removed": removed}

    def _values(self, run: Run, stack: list[Candidate], n: int, rows: dict[int, Candidate]) -> dict[int, float]:
        if self.by == "loss":
            return dict(zip(rows, Trials(run, "loss", self.batches)(list(rows.values())), strict=True))
        probe = run.probe()
        probe = run.probe_with(data=probe.data()[: self.batches], loss=run.task.loss)
        probe.training = False
        found = apart(probe, [block.name for block in stack], influence, [n], last=False)[n]
        return {at: found[at] for at in rows}
