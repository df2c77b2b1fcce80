"""A network whose masks are learned: trained scores, one per unit, decide in each forward pass what passes, and how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .choose import best
from .errors import ResproutError
from .kinds import Allocation, Gate, Scores
from .masks import Masks
from .part import Part
from .run import Run

SCORE, STATE = "gate:", "gate-state:"


class Gated(Part):
    """Calls the run's network with each weight times what the gate lets pass of its unit.

    Units are those of the run that are alive, and the gate sees no others; their scores live in `run.slots`, so that they are
    checkpointed. The run's masks stand still meanwhile: what does not pass today may pass tomorrow.

    Args:
        run: its network and its scores are trained together.
        gate: the method.
        keep: progress in [0, 1] -> units that may pass.
        allocate: among which units they compete.
        weights: whether the network's own tensors are trained too; else they are frozen meanwhile, and it runs as in use.
    """

    def __init__(self, run: Run, gate: Gate, keep: Callable[[float], int], allocate: Allocation, weights: bool = True):
        super().__init__(run.model)
        self._run, self._gate, self._keep, self._allocate = run, gate, keep, allocate
        self._units, self._frozen = run.units, not weights
        if not any(n.startswith(SCORE) for n in run.slots):
            for name, worth in self._worth().items():
                run.slots[SCORE + name] = gate.start(worth, run.generator("gate", name)).to(run.device)
        self._scores: dict[str, nn.Parameter] = {}
        for name in self._units:
            self._scores[name] = nn.Parameter(run.slots[SCORE + name])  # the slot's own memory
            self.register_parameter(f"gate/{name.replace('.', '/')}", self._scores[name])
        self.apart = list(self._scores.values())
        for p in run.model.parameters() if not weights else ():  # last: what fails before leaves the network as it was
            p.requires_grad_(False)

    def _worth(self) -> dict[str, Tensor]:
        """Unit name -> the share of all units with a smaller norm of the weights that are scaled by it."""
        ones = {n: torch.ones(u.shape, device=self._run.device, requires_grad=True) for n, u in self._units.items()}
        weights = {n: w.detach() for n, w in self._run.weights().items()}
        factors = self._run.granularity.spread(ones, {n: w.shape for n, w in weights.items()}, self._run.groups)
        total = torch.stack([(f * weights[n].float().square()).sum() for n, f in factors.items()]).sum()
        norms = torch.autograd.grad(total, list(ones.values()))
        ranks = torch.cat([n.flatten() for n in norms]).argsort(stable=True).argsort(stable=True).float()
        shares = (ranks / max(1, len(ranks) - 1)).cpu().split([n.numel() for n in norms])
        return {n: part.view(u.shape) for (n, u), part in zip(self._units.items(), shares, strict=True)}

    def train(self, mode: bool = True) -> Gated:
        """Set the mode; a frozen network stays in evaluation mode, so that its norms do not move and it drops nothing."""
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def top(self, scores: Mapping[str, Tensor], keep: int) -> Masks:
        """Return the `keep` units alive that score best, exactly."""
        among = None if self._whole else self._units
        found = Scores({n: s.detach() for n, s in scores.items()}, among)
        return best(found, keep, self._allocate, 0, 1.0, None)

    def passing(self) -> dict[str, Tensor]:
        """Return unit name -> what passes of each unit, differentiable in the scores; nothing of the dead."""
        scores = self._living()
        state = {n: self._run.slots.setdefault(STATE + n, torch.zeros_like(s)) for n, s in scores.items()}
        made = self._gate(scores, self._keep(self.t), self._top, state if self.training else {})
        return {n: self._spread(n, made[n]) if n in made else torch.zeros_like(s) for n, s in self._scores.items()}

    def _living(self) -> dict[str, Tensor]:
        """The scores of the living: as they are where all are alive, else in a line."""
        found: dict[str, Tensor] = {n: s for n, s in self._scores.items() if self._units.counts[n]}
        return found if self._whole else {n: s[self._units[n].to(s.device)] for n, s in found.items()}

    def _spread(self, name: str, living: Tensor) -> Tensor:
        """What `_living` has taken, in the form of the units; of the dead zero."""
        if self._whole:
            return living
        alive = self._units[name].to(living.device)
        return torch.zeros(alive.shape, dtype=living.dtype, device=living.device).masked_scatter(alive, living)

    def _top(self, scores: Mapping[str, Tensor], keep: int) -> Masks:
        if self._whole:
            return self.top(scores, keep)
        every = {n: self._spread(n, scores[n].detach()) if n in scores else s for n, s in self._scores.items()}
        chosen = self.top(every, keep)
        return Masks({n: chosen[n][self._units[n].to(chosen[n].device)] for n in scores})

    @property
    def _whole(self) -> bool:
        return self._units.alive == self._units.total

    def effective(self) -> dict[str, Tensor]:
        """Return the weights as the network computes with them."""
        weights = self._run.weights()
        shapes = {n: tuple(w.shape) for n, w in weights.items()}
        factors = self._run.granularity.spread(self.passing(), shapes, self._run.groups)
        return {n: weights[n] * f for n, f in factors.items()}

    def penalty(self) -> Tensor | float:
        """Return what the gate adds to the loss."""
        return self._gate.penalty(self._living(), self.t)

    def finish(self, done: bool) -> None:
        """The weights are trained as they are; all become trainable that were."""
        self.thaw()

    def chosen(self, keep: int) -> Masks:
        """Return the masks of the weights with exactly `keep` units alive: those whose scores are best in the end.

        Raises:
            ResproutError: more than are alive.
        """
        if keep > self._units.alive:
            raise ResproutError(f"cannot keep {keep:,} units: {self._units.alive:,} are alive")
        units = self.top(self._scores, keep)
        return self._run.masks & self._run.granularity.whole(units, self._run.masks, self._run.groups)
