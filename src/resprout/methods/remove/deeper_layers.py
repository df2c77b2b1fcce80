"""Deeper layers: blocks in a row leave, over which the residual stream turns by the smallest angle at the last token.

Gromov, Tirumala, Shapourian, Glorioso, Roberts: "The Unreasonable Ineffectiveness of the Deeper Layers", ICLR 2025,
arXiv:2403.17887.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...core.budget import Budget
from ...core.kinds import Fidelity, Remover
from ...core.run import Run
from ...numerics.distance import angular
from ._greedy import blocks, left, shortest
from ._stream import apart


@dataclass(frozen=True)
class DeeperLayers(Remover):
    """Of all n blocks in a row that with l the stream enters: those of least d(l, n) = angle(x_l, x_(l+n)) / pi.

    n is the fewest that meet the budget: the paper's fraction of layers is what the budget says here. `rule="deepest"` is the
    simple rule: the deepest n but for the last block, which loses a lot until the network is healed (a recovery of the
    recipe). Only blocks that are nothing but residual branches can leave.
    """

    rule: Literal["angular", "deepest"] = "angular"
    key: ClassVar[str | None] = "deeper-layers"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take them out; `distances` are the rows of the heat map: d(l, n) of each block l, for n = 1, 2, ..."""
        stack, probe = blocks(run), run.probe()
        probe.training = False
        names = [block.name for block in stack]
        found = apart(probe, names, angular, range(1, len(names) + 1), last=True)
        facts: dict[str, Any] = {"blocks": names, "distances": [found[n] for n in found], "removed": []}
        deepest = self.rule == "deepest"
        n, rows = shortest(run, budget, stack[:-1] if deepest else stack)
        if n:
            first = max(rows) if deepest else min(rows, key=lambda at: found[n][at])
            run.set_masks(left(run.masks, run.groups, rows[first]))
            facts["removed"] = [{"unit": rows[first].name, "blocks": n, "angular": found[n][first]}]
        return facts
