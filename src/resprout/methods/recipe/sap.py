"""Sparsity-informed adaptive pruning: the PQ index of the living weights says how many go each round, then rewind and retrain.

Diao, Wang, Zhang, Yang, Ding, Tarokh: "Pruning Deep Neural Networks from a Sparsity Perspective", ICLR 2023,
arXiv:2302.05601. The way to a budget, how much a rise is and the way back before it are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recipe, Recover
from ...core.run import Run
from ...core.steps import Arrive, Mark, Rewind
from ..allocate.global_ import Global
from ..recover.weight_rewind import WeightRewind
from ..score.magnitude import Magnitude
from ._plan import plan
from ._pqi import Adapt, Criterion


@dataclass(frozen=True)
class Sap(Recipe):
    """At most `rounds` rounds share the `epochs`; each cuts what the PQ index lets go (per "global", "layer" or "neuron").

    A budget is always met exactly, and all epochs are spent. The round in which the index would go beyond the budget ends on
    it, and its training gets what is left of the epochs. If the rounds run out before, or the index lets nothing go, the
    last cut takes all that the budget still asks for.

    With `stop` the method stops by itself: when the index is more than `rise` (a fraction) above its least so far, the
    network has reached its limit, and the one of the round before is what remains. A budget that this one does not keep is
    then met in one cut, trained with the epochs that are left (a round's at least); a sparsity of 0 asks for nothing.

    The network must have started from the point "start" (`fit` marks it before dense training).
    """

    epochs: float = 8
    rounds: int = 30
    scope: str = "global"
    p: float = 0.5
    q: float = 1.0
    eta: float = 0.0
    gamma: float = 1.0
    beta: float = 0.9
    stop: bool = False
    rise: float = 0.1
    recover: Recover = WeightRewind()  # noqa: RUF009
    floor: int = 0
    key: ClassVar[str | None] = "sap-pqi"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.rise >= 0:
            raise ResproutError(f"rounds must be 1 or more and rise 0 or more, got {self.rounds!r} and {self.rise!r}")
        _ = self.criterion  # complains of the rest

    @property
    def criterion(self) -> Criterion:
        """What goes."""
        return Criterion(self.scope, self.p, self.q, self.eta, self.gamma, self.beta)

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        steps = max(1, round(self.epochs * run.task.steps_per_epoch))
        ordered = list(plan(run, budgets, Magnitude(), Global(), self.floor))[::-1]
        began = run.here["trained"]
        if self.stop:
            self._until_it_rises(run, max(1, steps // self.rounds))
        for i, budget in enumerate(ordered):
            if self.stop:
                self._meet(
                    run, budget, max(steps // self.rounds, (began + steps - run.here["trained"]) // (len(ordered) - i))
                )
            else:
                self._to(run, budget, began + steps * (i + 1) // len(ordered), max(1, self.rounds // len(ordered)))
            run.do(Arrive(budget))

    def _to(self, run: Run, budget: Budget, end: int, rounds: int) -> None:
        """Come to a budget, and train until `end` optimizer steps have been taken."""
        left = max(1, end - run.here["trained"])
        rounds = min(rounds, left)
        for i in range(rounds):
            cut = run.do(Adapt(self.criterion, budget, self.floor, whole=i == rounds - 1))
            if not cut["met"] and not cut["died"]:
                cut = run.do(Adapt(self.criterion, budget, self.floor, whole=True))
            if cut["met"]:
                break
            self._retrain(run, left // rounds)
        self._retrain(run, max(1, end - run.here["trained"]))

    def _until_it_rises(self, run: Run, steps: int) -> None:
        """Cut and retrain until the index rises; then go back to before the last cut."""
        least = math.inf
        for _ in range(self.rounds):
            seen = run.do(Adapt(self.criterion, None, self.floor, try_only=True))
            if seen["index"] > (1 + self.rise) * least:
                run.do(Rewind("round", masks=True))
                return
            if not seen["may_go"]:
                return
            least = min(least, seen["index"])
            run.do(Mark("round"))
            run.do(Adapt(self.criterion, None, self.floor))
            self._retrain(run, steps)

    def _meet(self, run: Run, budget: Budget, steps: int) -> None:
        """Cut once to a budget that is not met yet."""
        if run.do(Adapt(self.criterion, budget, self.floor, whole=True))["died"]:
            self._retrain(run, max(1, steps))

    def _retrain(self, run: Run, steps: int) -> None:
        for step in self.recover(steps):
            run.do(step)
