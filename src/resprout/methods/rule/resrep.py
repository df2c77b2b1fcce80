"""ResRep: every unit gets a scale; some scales are made to forget the loss and shrink to zero under a penalty.

Ding, Hao, Tan, Liu, Han, Guo, Ding: "ResRep: Lossless CNN Pruning via Decoupling Remembering and Forgetting", ICCV 2021,
arXiv:2007.03260. Simplified: the paper's compactor is a full 1x1 convolution Q after each conv and norm; here Q is
diagonal, so that its row norm is the scale q of one unit, and it is folded into the norms' weight and bias at every step
(into the rows of weights and biases where the group has no norm). Units are chosen by their number, not by their FLOPs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.kinds import Fidelity, Rule
from ...core.masks import PRUNABLE
from ...core.roles import owner, rows, scale
from ...core.run import Run
from ...core.units import Slot
from ._zero_invariant import close, groups


@dataclass(frozen=True)
class ResRep(Rule):
    """Forget the fraction `sparsity` of the units: a linearly growing share from the fraction `start` of the steps.

    The forgotten are those with the smallest scales, chosen anew every `every` steps until half of the rest is over;
    their scales get no gradient of the loss. All scales get `penalty` (lambda), and a momentum of their own.
    """

    sparsity: float
    penalty: float = 1e-4
    momentum: float = 0.99
    start: float = 0.05
    every: int = 200
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def begin(self, run: Run, steps: int) -> None:
        """Give every unit the scale 1."""
        for group, _ in groups(run):
            run.slots[f"q:{group.name}"] = torch.ones(len(group), device=run.device)
            run.slots[f"v:{group.name}"] = torch.zeros(len(group), device=run.device)
            run.slots[f"keep:{group.name}"] = torch.ones(len(group), dtype=torch.bool, device=run.device)

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Reset the gradients of the forgotten scales, add the penalty, and let what is behind a scale learn through it."""
        t = (step / steps - self.start) / (1 - self.start)
        if t >= 0 and step % self.every == 0:
            self._forget(run, min(1.0, 2 * t) * self.sparsity)
        params = dict(run.model.named_parameters())
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()}
        for group, made in groups(run):
            slots, q = scaled(run, made), run.slots[f"q:{group.name}"]
            flow = (rows(grads, slots) * rows(params, slots).detach()).sum(1)
            pure = torch.where(q > 0, flow / q, 0.0)  # dL/dq of what is q times a value
            pure = pure * run.slots[f"keep:{group.name}"] + self.penalty
            run.slots[f"v:{group.name}"].mul_(self.momentum).add_(pure)
            scale(grads, slots, q.square())

    def after_step(self, run: Run, step: int, steps: int) -> None:
        """Move the scales, and what they are folded into."""
        assert run.optimizer is not None
        lr, params = run.optimizer.param_groups[0]["lr"], dict(run.model.named_parameters())
        for group, made in groups(run):
            q = run.slots[f"q:{group.name}"]
            new = torch.where(q > 0, (q - lr * run.slots[f"v:{group.name}"]).clamp(min=0), 0.0)
            scale(params, scaled(run, made), torch.where(q > 0, new / q, 0.0))
            q.copy_(new)

    def end(self, run: Run, steps: int) -> None:
        """Cut the units with the smallest scales; those at zero are not missed."""
        self._forget(run, self.sparsity)
        close(run, {group.name: run.slots[f"keep:{group.name}"] for group, _ in groups(run)})

    def _forget(self, run: Run, share: float) -> None:
        """Choose the fraction `share` of all units with the smallest scales; the largest of each group is kept."""
        q = {group.name: run.slots[f"q:{group.name}"].clone() for group, _ in groups(run)}
        for values in q.values():
            values[values.argmax()] = torch.inf
        flat = torch.cat(list(q.values()))
        gone = torch.zeros_like(flat, dtype=torch.bool)
        gone[flat.argsort(stable=True)[: round(share * len(flat))]] = True
        for (name, values), part in zip(q.items(), gone.split([len(v) for v in q.values()]), strict=True):
            run.slots[f"keep:{name}"] = ~part | values.isinf()


def scaled(run: Run, slots: tuple[Slot, ...]) -> list[Slot]:
    """Return the slots that a scale is folded into: those of norms where there are some, else of all that makes."""
    params = dict(run.model.named_parameters())
    flat = [s for s in slots if params[s.parameter].dim() == 1]
    return [s for s in flat if not isinstance(owner(run.model, s.parameter), PRUNABLE)] or list(slots)
