"""CFSP: blocks that turn their inputs least lose most of their MLP, and within each the channels of little activity go.

Wang, Ma, Wang, Chen, Shan, Yang, Xu, Liu, Qin: "CFSP: An Efficient Structured Pruning Framework for LLMs with Coarse-to-Fine
Activation Information", COLING 2025, arXiv:2409.13199 (without its LoRA of ranks in proportion to importance).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...core.blocks import find_blocks
from ...core.budget import Budget
from ...core.granularity import Units
from ...core.kinds import Fidelity, Remover
from ...core.run import Run
from ...core.steps import chooser
from ...numerics.distance import angular
from ..allocate.cfsp_coarse import CfspCoarse
from ..score.cfsp_fine import CfspFine
from ._levels import sites
from ._stream import apart


@dataclass(frozen=True)
class Cfsp(Remover):
    """Cut MLPs alone. The budget is of the whole network: the paper's share p of the MLPs is whatever meets it.

    `relative` is that of `cfsp_fine` ("channel" is as released), `a` that of `cfsp_coarse` (0: blocks alike), which see.
    """

    relative: Literal["channel", "both"] = "both"
    a: float = 1.0
    floor: int = 1
    key: ClassVar[str | None] = "cfsp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Cut; `angles` are the blocks' as parts of pi, `left` the channels that stay of each MLP."""
        path, what, probe = find_blocks(run.model), Units("channel"), run.probe()
        probe.training, names = (
            False,
            [f"{path}.{i}" for i in range(len(list(run.model.get_submodule(path).children())))],
        )
        angles = dict(zip(names, apart(probe, names, angular, [1], last=False)[1], strict=True))
        probe.groups = tuple(site.group for site in sites(run, budget) if site.group.kind == "channel")
        units = what.units(run.masks, probe.groups)
        choose = chooser(probe, CfspFine(self.relative), CfspCoarse(angles, self.a), self.floor, granularity=what)
        least = sum(min(self.floor, count) for count in units.counts.values())
        run.set_masks(budget.keep(run.model, choose, least, units.alive))
        return {"angles": angles, "left": what.units(run.masks, probe.groups).counts}
