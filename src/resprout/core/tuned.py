"""A network of which only a part is trained: some of its tensors, and adapters that become part of its weights in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ResproutError
from .kinds import Tune
from .run import Run

SLOT = "tune:"


class Tuned(nn.Module):
    """Calls the run's network with the weights that a `Tune` makes; its trainable parameters are what is trained.

    Adapters live in `run.slots`, so that they are checkpointed. The masks must stand still.

    Raises:
        ResproutError: names the network does not have, or nothing to train.
    """

    def __init__(self, run: Run, tune: Tune):
        super().__init__()
        self.model, self._tune, self._masks = run.model, tune, run.masks
        params = dict(run.model.named_parameters())
        own = set(tune.own(run.model))
        if odd := own - set(params):
            raise ResproutError(f"{tune!r} would train {min(odd)!r}, which the network does not have")
        self._flags = {n: p.requires_grad for n, p in params.items()}
        for name, p in params.items():
            p.requires_grad_(name in own)
        if not any(n.startswith(SLOT) for n in run.slots):
            for name, weight in params.items():
                made = tune.beside(name, weight.detach(), run.generator("tune", name))
                run.slots |= {f"{SLOT}{name}:{short}": t for short, t in made.items()}
        self._beside: dict[str, dict[str, Tensor]] = {}
        for key, tensor in run.slots.items():
            if key.startswith(SLOT):
                name, short = key.removeprefix(SLOT).rsplit(":", 1)
                p = nn.Parameter(tensor)  # the slot's own memory
                self.register_parameter(key.replace(".", "/"), p)
                self._beside.setdefault(name, {})[short] = p
        if not own and not self._beside:
            raise ResproutError(f"{tune!r} leaves nothing to train in {type(run.model).__name__}")

    @property
    def size(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def effective(self) -> dict[str, Tensor]:
        """Return the weights that have something beside them, as the network computes with them."""
        params = dict(self.model.named_parameters())
        found = {}
        for name, beside in self._beside.items():
            weight = params[name]
            mask = self._masks[name] if name in self._masks else torch.ones_like(weight, dtype=torch.bool)
            found[name] = self._tune.effective(weight, mask, beside)
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return torch.func.functional_call(self.model, self.effective(), args, kwargs, tie_weights=True)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Have the network itself compute with the weights in use, for a while."""
        with torch.no_grad():
            made, params = self.effective(), dict(self.model.named_parameters())
            kept = {n: params[n].detach().clone() for n in made}
            _write(params, made)
        try:
            yield
        finally:
            _write(params, kept)

    def finish(self, merge: bool) -> None:
        """Let the adapters become part of the weights (or drop them), and all be trainable that was."""
        params = dict(self.model.named_parameters())
        if merge:
            with torch.no_grad():
                made = self.effective()
                _write(params, {n: t * self._masks[n] if n in self._masks else t for n, t in made.items()})
        for name, p in params.items():
            p.requires_grad_(self._flags[name])


@torch.no_grad()
def _write(params: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        params[name].copy_(value)
