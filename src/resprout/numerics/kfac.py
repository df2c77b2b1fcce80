"""Kronecker factors of a layer's curvature: A of what it reads, G of the gradients at what it puts out; H is about G (x) A.

Martens, Grosse: "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015, arXiv:1503.05671;
convolutions: Grosse, Martens, ICML 2016, arXiv:1602.01407. Labels are those of the batch (the empirical Fisher matrix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.outputs import inputs
from ..core.probe import Probe
from .curvature import columns


@dataclass(frozen=True)
class Factors:
    """Of one layer: `inputs` (groups, columns, columns), `outputs` (groups, rows, rows); rows are outputs of a group."""

    inputs: Tensor
    outputs: Tensor

    def rows(self, change: Tensor, products: bool = True) -> Tensor:
        """Return 1/2 G_ii d_ij (A d_i)_j for every weight, of its shape: the part of 1/2 d'Hd within each output.

        What couples different outputs (the off-diagonal of G) is left out, and without `products` what couples different
        inputs too: 1/2 G_ii A_jj d_ij^2.
        """
        d = change.reshape(len(self.inputs), -1, self.inputs.shape[1])
        own = self.outputs.diagonal(dim1=1, dim2=2)[:, :, None]
        read = d @ self.inputs if products else d * self.inputs.diagonal(dim1=1, dim2=2)[:, None]
        return (0.5 * own * d * read).reshape(change.shape)


def factors(
    probe: Probe, batch: Any, names: Sequence[str], weights: Mapping[str, Tensor] | None = None
) -> dict[str, Factors]:
    """Return weight -> its layer's factors on one batch; the loss must be a mean over the batch.

    Args:
        probe: with a loss.
        batch: as the loss takes it.
        names: weights of linear layers and convolutions.
        weights: what to compute with in place of the network's own.

    Raises:
        ResproutError: a layer of another kind, or one that is not called as a module.
    """
    layers = {n: n.rpartition(".")[0] for n in names}
    modules = {layer: probe.model.get_submodule(layer) for layer in layers.values()}
    said: dict[str, Tensor] = {}
    with probe.aside(), torch.enable_grad(), inputs(probe.model, list(modules)) as read, _before(modules, said):
        given = {n: w.detach().requires_grad_() for n, w in (weights or probe.weights()).items()}
        value = probe.loss(batch, given)
        missing = [n for n, layer in layers.items() if layer not in said]
        if missing:
            raise ResproutError(f"the layer of {missing[0]!r} is not called as a module; add it to ignore=[...]")
        slopes = torch.autograd.grad(
            value, [said[layer] for layer in modules], materialize_grads=True, allow_unused=True
        )
    found = {layer: _pair(modules[layer], read[layer].detach(), g) for layer, g in zip(modules, slopes, strict=True)}
    return {n: found[layer] for n, layer in layers.items()}


@contextmanager
def _before(modules: Mapping[str, nn.Module], said: dict[str, Tensor]) -> Iterator[None]:
    """Note what modules put out, and hand on a copy, which what follows may overwrite (a ReLU in place)."""

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            said[name] = out
            return out.clone()

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pair(module: nn.Module, x: Tensor, slope: Tensor) -> Factors:
    """The two factors, of inputs and of gradients by batch, position and output."""
    seen, samples = columns(module, x), len(x)
    g = (slope if isinstance(module, nn.Linear) else slope.movedim(1, -1)) * samples
    g = g.reshape(-1, len(seen), g.shape[-1] // len(seen)).movedim(1, 0)  # groups, batch and positions, rows
    return Factors(seen.mT @ seen / samples, g.mT @ g / g.shape[1])
