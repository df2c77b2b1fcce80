"""A network of which only a part is trained: some of its tensors, and adapters that become part of its weights in the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import ResproutError
from .kinds import Tune
from .part import Part, write
from .run import Run

SLOT = "tune:"


class Tuned(Part):
    """Calls the run's network with the weights that a `Tune` makes; its trainable parameters are what is trained.

    Adapters live in `run.slots`, so that they are checkpointed. The masks must stand still.

    Raises:
        ResproutError: names the network does not have, or nothing to train.
    """

    def __init__(self, run: Run, tune: Tune):
        super().__init__(run.model)
        self._tune, self._masks = tune, run.masks
        params = dict(run.model.named_parameters())
        own = set(tune.own(run.model))
        if odd := own - set(params):
            raise ResproutError(f"{tune!r} would train {min(odd)!r}, which the network does not have")
        if not any(n.startswith(SLOT) for n in run.slots):
            for name in run.masks:
                made = tune.beside(name, params[name].detach(), run.generator("tune", name))
                run.slots |= {f"{SLOT}{name}:{short}": t.to(params[name].device) for short, t in made.items()}
        self._beside: dict[str, dict[str, Tensor]] = {}
        for key in sorted(n for n in run.slots if n.startswith(SLOT)):  # the optimizer's order, also when resumed
            name, short = key.removeprefix(SLOT).rsplit(":", 1)
            p = nn.Parameter(run.slots[key])  # the slot's own memory
            self.register_parameter(key.replace(".", "/"), p)
            self._beside.setdefault(name, {})[short] = p
        if not own and not self._beside:
            raise ResproutError(f"{tune!r} leaves nothing to train in {type(run.model).__name__}")
        for name, p in params.items():
            p.requires_grad_(name in own)

    def effective(self) -> dict[str, Tensor]:
        """Return the weights that have something beside them, as the network computes with them."""
        params, found = dict(self.model.named_parameters()), {}
        for name, beside in self._beside.items():
            weight = params[name]
            with torch.autocast(weight.device.type, enabled=False):  # what becomes of it is as exact as the weight
                found[name] = self._tune.effective(weight, self._masks[name], beside).to(weight.dtype)
        return found

    def penalty(self) -> float:
        """Nothing."""
        return 0.0

    def finish(self, done: bool) -> None:
        """Let the adapters become part of the weights (or drop them), and all be trainable that was."""
        params = dict(self.model.named_parameters())
        if done:
            with torch.no_grad():
                write(params, {n: t * self._masks[n] for n, t in self.effective().items()})
        self.thaw()
