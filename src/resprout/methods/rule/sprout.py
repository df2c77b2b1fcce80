"""Sprout: cut gradually to a stump just past the target, gather evidence there, and wake the dead that promise the most.

Ours, after "Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff",
arXiv:2511.11675; what differs, and why, is in docs/recipe.md.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...core.budget import Budget
from ...core.kinds import Allocation, Fidelity, Rule, Score
from ...core.masks import Masks
from ...core.run import Run
from ...core.steps import chooser
from ..allocate.global_ import Global
from ..allocate.lamp import Lamp
from ..schedule.cubic import Cubic
from ..score.expected_gain import ExpectedGain
from ..score.magnitude import Magnitude
from ._evidence import gather, remember, witness
from ._move import LATE, cut, drifted


@dataclass(frozen=True)
class Sprout(Rule):
    """Cut cubically to `stump` * `keep` weights until `down`, then regrow to `keep` (or the budget's limit) until `up`.

    With `down` = 0 nothing is cut, and regrowth begins at the masks of now.

    The dead are ranked by the expected gain of waking them with the value they were cut at, from running means
    (`memory`) of the gradients at the stump and of their squares times the batch size.
    """

    keep: int
    budget: Budget | None = None
    stump: float = 0.75
    down: float = 0.5
    up: float = 0.65
    every: int = 16
    memory: float = 0.98
    score: Score = ExpectedGain()  # noqa: RUF009
    cut_score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation = Lamp()  # noqa: RUF009
    regrow: Allocation = Global()  # noqa: RUF009
    floor: int = 0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def begin(self, run: Run, steps: int) -> None:
        """Until a weight is cut, the value to wake it with is the dense network's."""
        run.slots |= {f"v:{n}": t.clone() for n, t in (run.anchor or {}).items() if n in run.masks}

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """Gather evidence, then cut or wake, if it is time."""
        down, up = round(self.down * steps), min(round(self.up * steps), steps - 1)
        if step == round(LATE * steps) > up and drifted(run, self.budget):
            self._wake(run, 1.0, last=True)
        if step > up:
            return
        gather(run, self.memory)
        if down and step <= down and (step % self.every == 0 or step == down):
            total = run.units.total
            share = Cubic(1.0, self.stump * self.keep / total)(step / down)
            remember(run)
            cut(run, round(share * total), self.cut_score, self.allocate, self.floor, self.budget)
        if step == down:
            run.slots["stump"] = torch.tensor(run.units.alive)
        if step == up or (step > down and (step - down) % self.every == 0):
            self._wake(run, 1.0 if step == up else (step - down) / (up - down), last=step == up)

    def _wake(self, run: Run, t: float, last: bool) -> None:
        """Regrow to the share `t` of the way from the stump to the target; the last time to the budget's limit."""
        probe, units = witness(run), run.units
        alive = units.alive
        prices = None if self.budget is None else self.budget.prices(run.model, run.masks)
        grow = chooser(probe, self.score, self.regrow, 0, prices, run.granularity)
        if last and self.budget is not None:
            shrink = chooser(run.probe(), self.cut_score, self.allocate, self.floor, prices, run.granularity)
            met = self.budget.met(self.budget.cost(run.model, run.masks))  # or training has moved it past the limit
            least = alive if met else sum(min(self.floor, count) for count in units.counts.values())

            def choose(keep: int) -> Masks:
                return grow(keep) if keep >= alive else shrink(keep)

            masks = self.budget.keep(run.model, choose, least, units.total)
        else:
            stump = int(run.slots["stump"])
            masks = grow(max(alive, round(stump + t * (self.keep - stump))))
        run.set_masks(masks, values=probe.anchor())
