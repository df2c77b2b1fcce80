"""Reconstruct: layer by layer, adapters under the mask bring outputs back to those of the dense weights; no labels are needed.

Zimmer, Andoni, Spiegel, Pokutta: "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv:2312.15230 (its
reconstruction mode). The error min |W X - W' X|^2 is a quadratic in W' of which X X^T says all, so that each step sees all of the
data and costs no pass over it. Layers of one block read what they read before any of them was changed.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recover, Step, Tune
from ...core.run import Run
from ...numerics.curvature import grams
from ..allocate._blocks import blocks
from ..schedule.linear import Linear
from ..tune.mask_lora import MaskLora


@dataclass(frozen=True)
class Reconstruct(Recover):
    """`each` steps of Adam on each layer's own error, relative to its outputs; then what `then` does, if it is given."""

    tune: Tune = MaskLora(biases_norms=False)  # noqa: RUF009
    each: int = 100
    lr: float = 1e-2
    then: Recover | None = None
    key: ClassVar[str | None] = "perp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return Rebuild, and what `then` does with all of `steps`."""
        return (Rebuild(self.tune, self.each, self.lr), *(self.then(steps) if self.then is not None else ()))


@dataclass(frozen=True)
class Rebuild(Step):
    """Blocks in order; each reads what the network makes of the data by then. No layer ends with a larger error."""

    tune: Tune
    each: int
    lr: float

    def __call__(self, run: Run) -> dict[str, Any]:
        """Reconstruct.

        Raises:
            ResproutError: no point "dense", or a layer whose inputs are not known.
        """
        if run.anchor is None:
            raise ResproutError('the dense network is what is reconstructed: mark it first, run.do(Mark("dense"))')
        weights, errors = run.weights(), {}
        for names in blocks(list(run.masks)).values():
            cut = [n for n in names if not bool(run.masks[n].all())]
            probe = run.probe()
            probe.training = False
            for name, gram in grams(probe, cut).items() if cut else ():
                dense = run.anchor[name].to(weights[name])
                errors[name], made = self._fit(run, name, weights[name].detach(), dense, gram)
                with torch.no_grad():
                    weights[name].copy_(made)
        return {"errors": errors, "validation": run.evaluate()}

    def _fit(self, run: Run, name: str, weight: Tensor, dense: Tensor, gram: Tensor) -> tuple[list[float], Tensor]:
        """Return the relative errors before and after, and the best weight on the way."""
        beside = self.tune.beside(name, weight, run.generator("tune", name))
        beside = {n: t.to(weight.device).requires_grad_() for n, t in beside.items()}
        mask, lr, found, best = run.masks[name], Linear(self.lr, 0.0), [], weight
        whole = _energy(dense, gram).clamp(min=1e-30)
        optimizer = torch.optim.Adam(beside.values(), self.lr) if beside else None
        for step in range(self.each + 1 if optimizer else 0):
            with torch.enable_grad():
                made = self.tune.effective(weight, mask, beside) * mask
                error = _energy(made - dense, gram) / whole
            found.append(float(error.detach()))
            if found[-1] <= min(found):
                best = made.detach()
            if optimizer is not None and step < self.each:
                optimizer.param_groups[0]["lr"] = lr(step / self.each)
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
        return [round(e, 8) for e in (found[0], min(found))] if found else [], best


def _energy(change: Tensor, gram: Tensor) -> Tensor:
    """Return |D X|^2 by the Gram matrices (groups, columns, columns) of X."""
    rows = change.flatten(1).float().unflatten(0, (len(gram), -1))
    return ((rows @ gram) * rows).sum()
