"""Iterative magnitude pruning with rewinding: survivors go back not to the initialisation but to a little later.

Frankle, Dziugaite, Roy, Carbin: "Stabilizing the Lottery Ticket Hypothesis", 2019, arXiv:1903.01611. The optimizer starts
anew at each rewinding, as in the first author's later framework; its momentum then is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.budget import Budget
from ...core.kinds import Fidelity
from ...core.run import Run
from ..recover.weight_rewind import WeightRewind
from ._rewinding import Rewinding


@dataclass(frozen=True)
class ImpRewind(Rewinding):
    """Train from the point "start", keep the network at the fraction `early` of training, and go back there each round.

    Each round removes `rate` of the survivors. All trainings, the dense network's included, are as long as `epochs` in all
    allow. With `early` = 0 it is the original lottery ticket, bit for bit.
    """

    key: ClassVar[str | None] = "imp-rewind"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk, the largest budget first."""
        self._walk(run, budgets, lambda to, span: WeightRewind(to, self.lr, self.optimizer, span))
