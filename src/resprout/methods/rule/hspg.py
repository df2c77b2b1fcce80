"""HSPG: a group penalty, and groups that a step would turn away from where they are become exactly zero.

Chen, Ji, Ding, Fang, Wang, Zhu, Liang, Shi, Yi, Tu: "Only Train Once: A One-Shot Neural Network Training And Pruning
Framework", NeurIPS 2021, arXiv:2107.07467 (zero-invariant groups, Algorithm 2). The trial step is that of the run's own
optimizer, which is the paper's with SGD without momentum; at the end the zero units leave, and nothing is fine-tuned.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Rule
from ...core.roles import pull, rows, scale
from ...core.run import Run
from ._zero_invariant import close, groups


def stays(x: Tensor, trial: Tensor, epsilon: float) -> Tensor:
    """Return (units,): whether a trial point is in the half-space of `x`, both (units, numbers); zero stays zero."""
    square = x.square().sum(1)
    return ((trial * x).sum(1) >= epsilon * square) & (square > 0)


@dataclass(frozen=True)
class Hspg(Rule):
    """Penalise the norm of every unit; from the fraction `project` of the steps on, project on half-spaces.

    `penalty` is lambda, `epsilon` in [0, 1) says how soon a unit is zeroed. The units are those of `run.groups`, of each of
    which the `floor` largest are spared when no others are left.
    """

    penalty: float = 1e-3
    epsilon: float = 0.0
    project: float = 0.5
    floor: int = 1
    fidelity: ClassVar[Fidelity] = "paper-checked"
    key: ClassVar[str | None] = "oto-hspg"

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Add the penalty's sub-gradient, and keep where the units are for the projection."""
        params = dict(run.model.named_parameters())
        for group, slots in groups(run):
            x = rows(params, slots).detach()
            norm = x.norm(dim=1)
            pull(params, slots, torch.where(norm > 0, self.penalty / norm, 0.0))
            if step >= self.project * steps:
                run.slots[f"x:{group.name}"] = x

    def after_step(self, run: Run, step: int, steps: int) -> None:
        """Zero the units that have left their half-space."""
        if step >= self.project * steps:
            params = dict(run.model.named_parameters())
            for group, slots in groups(run):
                trial = rows(params, slots).detach()
                keep = stays(run.slots.pop(f"x:{group.name}"), trial, self.epsilon)
                if int(keep.sum()) < self.floor:
                    keep[trial.norm(dim=1).topk(min(self.floor, len(trial))).indices] = True
                scale(params, slots, keep)

    def end(self, run: Run, steps: int) -> None:
        """Cut the units that are zero, in all their slots."""
        params = dict(run.model.named_parameters())
        close(run, {group.name: rows(params, slots).any(1) for group, slots in groups(run)})
