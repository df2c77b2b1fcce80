"""Gates that close filters per input, the network around them, and what it computes, in multiply-adds per input; not a method.

A closed filter is zero here, and computed none the less: what is saved is counted, not timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, nearest


class Gate(nn.Module):
    """What one convolution reads -> which of its filters are open: pooled to one number a channel, and a linear layer.

    The inputs are cut off from the gradient, so that what the gate learns does not touch the network.
    """

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.linear = nn.Linear(inputs, filters)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 2.0)  # all open at first

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (samples, filters); a filter is open where its logit is above 0."""
        return self.linear(x.detach().amax((2, 3)))


class Gated(nn.Module):
    """A network with gates behind some of its convolutions, and what they said of the last batch.

    A gate's 0 or 1 multiplies what leaves the module `after`, a convolution's norm before its ReLU, or the convolution itself.

    Args:
        model: the network.
        layers: name of a convolution -> name of the norm or ReLU whose output, where above zero, is its heatmap ("" for the
            convolution itself, of either sign).

    Raises:
        ResproutError: a name that is no convolution, or none of a module after it.

    Attributes:
        logits: name of a layer -> (samples, filters), of the last batch.
        heat: likewise the largest absolute value of each filter, before the gate.
        open: likewise what was open, bool.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str]):
        super().__init__()
        self.model, self.after = model, dict(layers)
        modules = dict(model.named_modules())
        for name, after in layers.items():
            if after not in modules:
                raise nearest(after, [n for n in modules if n], f"module after {name!r}")
            if not isinstance(modules.get(name), nn.Conv2d):
                raise ResproutError(
                    f"{name!r} is no convolution of {type(model).__name__}, and only their filters have gates"
                )
        self.names = list(layers)
        convolutions: list[Any] = [modules[name] for name in self.names]
        self.gates = nn.ModuleList(Gate(c.in_channels, c.out_channels) for c in convolutions)
        self.logits: dict[str, Tensor] = {}
        self.heat: dict[str, Tensor] = {}
        self.open: dict[str, Tensor] = {}
        self.oracle: float | None = None  # gates open for this part of the heat instead of by what they say

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network says with its filters open or closed per input."""
        self.logits, self.heat, self.open = {}, {}, {}
        with self._hooked():
            return self.model(x)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"logits": {}, "heat": {}, "open": {}}  # a tensor with a history cannot be copied

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        modules, handles = dict(self.model.named_modules()), []
        for name, gate in zip(self.names, self.gates, strict=True):
            handles.append(modules[name].register_forward_pre_hook(self._reads(name, gate)))
            handles.append(modules[self.after[name] or name].register_forward_hook(self._closes(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reads(self, name: str, gate: nn.Module) -> Any:
        return lambda module, args: self.logits.__setitem__(name, gate(args[0]))

    def _closes(self, name: str) -> Any:
        def close(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            fires = out.detach().relu() if self.after[name] else out.detach().abs()
            self.heat[name] = fires.amax((2, 3))
            keep = self.logits[name] > 0 if self.oracle is None else mass(self.heat[name], self.oracle)
            self.open[name] = keep.detach()
            return out * keep[:, :, None, None]

        return close


def mass(heat: Tensor, part: float) -> Tensor:
    """Return which filters make up `part` of each sample's heat, bool: the fewest, hottest first; those without any never.

    The one with which `part` is reached is among them (the released code leaves it out).

    Args:
        heat: (samples, filters), 0 or more.
        part: in [0, 1]; 1 leaves out what is zero only.
    """
    share = heat.double() / heat.double().sum(1, keepdim=True).clamp_min(1e-30)
    ranked, order = share.sort(dim=1, descending=True, stable=True)
    before = ranked.cumsum(1) - ranked  # of the hotter ones
    chosen = (before < part - 1e-9) & (ranked > 0)
    return torch.zeros_like(chosen).scatter(1, order, chosen)


@torch.no_grad()
def multiply_adds(gated: Gated, x: Tensor, read_by: Mapping[str, str]) -> tuple[Tensor, int]:
    """Return what each input costs (samples,), and what it costs with all filters open: convolutions, linear layers and gates.

    Args:
        gated: the network, in evaluation mode.
        x: inputs.
        read_by: gated layer -> the convolution that alone reads its filters; closed ones are not read.
    """
    modules, sizes = dict(gated.model.named_modules()), {}
    kinds = (nn.Conv2d, nn.Linear)

    def note(name: str) -> Any:
        return lambda module, args, out: sizes.__setitem__(name, out[0].numel() * module.weight[0].numel())

    handles = [m.register_forward_hook(note(n)) for n, m in modules.items() if isinstance(m, kinds)]
    try:
        gated(x)
    finally:
        for handle in handles:
            handle.remove()
    share = {n: torch.ones(len(x), dtype=torch.float64) for n in sizes}
    for name in gated.names:
        part = gated.open[name].double().mean(1).cpu()
        share[name] *= part
        if name in read_by:
            share[read_by[name]] *= part
    extra = sum(g.linear.weight.numel() for g in gated.gates) if gated.oracle is None else 0  # pyright: ignore
    cost = torch.stack([sizes[n] * share[n] for n in sizes]).sum(0) + extra
    return cost, sum(sizes.values())


def blocks(model: nn.Module) -> dict[str, str]:
    """Return the first convolution -> its norm of every block with conv1, bn1, conv2, such as a ResNet's."""
    names = [n for n, m in model.named_modules() if all(hasattr(m, part) for part in ("conv1", "bn1", "conv2"))]
    return {f"{n}.conv1": f"{n}.bn1" for n in names}


def inner(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Return (layer -> its norm, layer -> who reads it) of every block with conv1, bn1, conv2.

    Raises:
        ResproutError: there is none.
    """
    found = blocks(model)
    if not found:
        raise ResproutError(f"{type(model).__name__} has no blocks of conv1, bn1 and conv2: name its layers yourself")
    return found, {n: f"{n.removesuffix('conv1')}conv2" for n in found}


def estimate(gated: Gated, batches: Sequence[Tensor], read_by: Mapping[str, str], part: float) -> float:
    """Return the mean cost per input, as a part of that with all filters open, if gates opened for `part` of the heat."""
    before, gated.oracle = gated.oracle, part
    try:
        found = [multiply_adds(gated, x, read_by) for x in batches]
    finally:
        gated.oracle = before
    return float(torch.cat([c for c, _ in found]).mean()) / found[0][1]
