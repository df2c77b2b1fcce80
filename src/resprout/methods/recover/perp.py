"""PERP: retrain a few percent of a pruned network, adapters under its mask, biases and norms; the rest is frozen.

Zimmer, Andoni, Spiegel, Pokutta: "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv:2312.15230.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Objective, Recover, Step, Tune
from ...core.train import Optimizer, Train
from ..schedule.linear import Linear
from ..tune.mask_lora import MaskLora


@dataclass(frozen=True)
class Perp(Recover):
    """AdamW without decay, `lr` falling linearly after a tenth of warm-up; the paper tunes it from 5e-6 to 5e-4."""

    lr: float = 5e-4
    tune: Tune = MaskLora()  # noqa: RUF009
    objective: Objective | None = None
    looks: int = 0
    key: ClassVar[str | None] = "perp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return one Train."""
        lr, adamw, best = Linear(self.lr, 0.0, 0.1), Optimizer("adamw", decay=0.0), self.looks > 0
        return (Train(steps, lr, adamw, looks=self.looks, best=best, objective=self.objective, tune=self.tune),)
