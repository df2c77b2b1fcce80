"""The curvature of a layer's own error: H = 2 X X^T of its inputs, whose columns are those of the layer's weight.

Frantar, Singh, Alistarh: "Optimal Brain Compression", NeurIPS 2022, arXiv:2208.11580 (the layer-wise problem).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .errors import ResproutError
from .probe import Probe, share
from .roles import CONVOLUTIONS

PIECE = 1 << 23  # numbers of unfolded input at a time


def columns(module: nn.Module, x: Tensor) -> Tensor:
    """Return what each output of `module` reads of `x`: (groups, positions, columns), the weight's columns flattened."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, module.in_features)
    if not isinstance(module, CONVOLUTIONS):
        raise ResproutError(f"the columns of a {type(module).__name__} are unknown: add it to ignore=[...]")
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = pad(x, module._reversed_padding_repeated_twice, mode)
    for dim, (size, stride, step) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, step * (size - 1) + 1, stride)[..., ::step]
    kernel = len(module.kernel_size)
    x = x.unflatten(1, (module.groups, -1)).movedim(2, 2 + kernel)  # groups, batch and positions, inputs and kernel
    return x.movedim(1, 0).flatten(1, 1 + kernel).flatten(2)


def curvature(probe: Probe, weights: Sequence[str], damping: float = 0.01) -> dict[str, Tensor]:
    """Return weight -> H of its layer over the batches, (groups, columns, columns) in float64, summed over the ranks.

    Args:
        probe: with data.
        weights: names of weights of linear layers and convolutions.
        damping: the part of the mean of H's diagonal that is added to it.

    Raises:
        ResproutError: a layer of another kind, or one that is not run as a module.
    """
    found: dict[str, Tensor] = {}
    names = {n.rpartition(".")[0]: n for n in weights}

    def see(name: str, x: Tensor) -> None:
        module = probe.model.get_submodule(name)
        grow = max(1, module.weight[0].numel() // max(1, module.weight.shape[1]))  # pyright: ignore
        for part in x.split(max(1, PIECE // max(1, x[:1].numel() * grow))):
            rows = columns(module, part)
            found[names[name]] = found.get(names[name], 0) + 2 * (rows.mT @ rows).double()

    probe.watch(list(names), see, inputs=True)
    if missing := [n for n in weights if n not in found]:
        raise ResproutError(f"nothing is seen of {missing[0]!r}: it is not run as a module; add it to ignore=[...]")
    for name, h in found.items():
        h = share(h)
        mean = h.diagonal(dim1=1, dim2=2).mean(1)
        added = damping * torch.where(mean > 0, mean, 1.0)
        found[name] = h + torch.eye(h.shape[1], dtype=h.dtype, device=h.device) * added[:, None, None]
    return found


def solve(a: Tensor, b: Tensor) -> Tensor:
    """Return a^-1 b.

    Raises:
        ResproutError: a is singular.
    """
    try:
        return torch.linalg.solve(a, b)
    except torch.linalg.LinAlgError as error:
        raise ResproutError(
            "the inputs of a layer do not determine its weights: give more batches, or damping > 0"
        ) from error


def inverse(hessian: Tensor) -> Tensor:
    """Return H^-1 of each group, (groups, columns, columns).

    Raises:
        ResproutError: H is singular.
    """
    return solve(hessian, torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device).expand_as(hessian))


def least_squares(weight: Tensor, hessian: Tensor, keep: Tensor) -> Tensor:
    """Return the weight that on the columns `keep` alone comes nearest to what `weight` puts out, zero elsewhere.

    It is what removing the other columns by the surgeon's formula W - W_B [H^-1_BB]^-1 H^-1_B leads to.

    Args:
        weight: (outputs, inputs, ...) of a linear layer or convolution.
        hessian: (groups, columns, columns), see `curvature`.
        keep: bool, (columns,) or the shape of one row of the weight.
    """
    keep = keep.flatten().to(weight.device)
    rows = weight.detach().double().reshape(len(hessian), -1, hessian.shape[1])
    inner = hessian[:, keep][:, :, keep]
    best = torch.zeros_like(rows)
    best[:, :, keep] = solve(inner, hessian[:, keep] @ rows.mT).mT
    return best.reshape(weight.shape).to(weight.dtype)


def removal(weight: Tensor, inverted: Tensor, blocks: Tensor) -> Tensor:
    """Return (blocks,): what removing each block of columns costs the layer, after the other columns make up for it.

    Args:
        weight: (outputs, inputs, ...).
        inverted: H^-1, (groups, columns, columns).
        blocks: int64 (blocks, size), the columns of each.
    """
    rows = weight.detach().double().reshape(len(inverted), -1, inverted.shape[1])
    inner = inverted[:, blocks[:, :, None], blocks[:, None, :]]  # groups, blocks, size, size
    picked = rows[:, :, blocks].permute(0, 2, 3, 1)  # groups, blocks, size, outputs
    return (picked * solve(inner, picked)).sum((0, 2, 3)) / 2
