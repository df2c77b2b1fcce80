"""From float weights to integers with a scale per output channel, with or without a look at data.

Plain rounding takes each weight to its nearest integer. With the Gram matrix of a layer's inputs, weights are rounded one
after another, and those still to come are re-fitted so that the layer's output changes least; only alive weights
take part.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv:2210.17323; here with masks and a fixed grid, per output channel.

What this file does not do: quantise activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ResproutError
from ..core.probe import first_tensor
from .sparse import EXPONENTS, LARGEST, STEPS, Sparse, channels, powers

Floats = NDArray[np.float32]
LOWER = 5  # how many finer scales are tried for int4, whose largest weights may be clipped
CHUNK = 1 << 24  # numbers of the matrices of one batch of channels, 64 MiB
GRAMS = 1 << 28  # numbers of the Gram matrices of one pass over the data, 1 GiB


def quantise(shape: tuple[int, ...], places: NDArray[np.int64], weights: Floats, values: str) -> Sparse:
    """Round to the nearest integers.

    Args:
        shape: of the whole tensor.
        places: the alive weights' flat positions, ascending.
        weights: their values, finite.
        values: "int8": the scale covers the channel's largest weight; "int4": the one with the least squared error.
    """
    top = LARGEST[values]
    empty = Sparse(shape, torch.from_numpy(places), torch.zeros(len(places), dtype=torch.int8))
    rows = places // empty.width
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(starts, append=len(places))
    scales = torch.zeros(shape[0] if shape else 1)
    if not len(places):
        return Sparse(shape, empty.places, empty.codes, scales)
    exponents = _exponents(np.maximum.reduceat(np.abs(weights), starts), top)
    if values == "int4":
        exponents = _finest(weights, starts, counts, exponents, top)
    scale = powers(exponents)
    codes = _round(weights, np.repeat(scale, counts), top)
    scales[torch.from_numpy(rows[starts])] = torch.from_numpy(scale)
    return Sparse(shape, empty.places, torch.from_numpy(codes.astype(np.int8)), scales)


def _exponents(largest: Floats, top: int) -> NDArray[np.int64]:
    """The finest scale that covers a channel's largest weight; a channel of zeros gets one that others have."""
    with np.errstate(divide="ignore"):
        exact = np.floor(-STEPS * np.log2(largest.astype(np.float64) / top))
    exact = np.minimum(exact, EXPONENTS[-1])
    some = exact[largest > 0].min() if (largest > 0).any() else 0
    return np.where(largest > 0, exact, some).astype(np.int64)


def _finest(
    weights: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64], exponents: NDArray[np.int64], top: int
) -> NDArray[np.int64]:
    """The exponents at or above these with the least squared error per channel."""
    errors = []
    for finer in range(LOWER):
        scale = np.repeat(powers(np.minimum(exponents + finer, EXPONENTS[-1])), counts)
        errors.append(
            np.add.reduceat(np.square(_round(weights, scale, top) * scale - weights, dtype=np.float64), starts)
        )
    return np.minimum(exponents + np.argmin(errors, axis=0), EXPONENTS[-1])


def _round(weights: Floats, scale: Floats, top: int) -> Floats:
    return np.clip(np.rint(weights / scale), -top, top)


def relative_error(sparse: Sparse, weights: Floats) -> float:
    """Return the norm of what was lost over the norm of the weights."""
    lost = np.linalg.norm(sparse.values().numpy().astype(np.float64) - weights)
    return float(lost / max(float(np.linalg.norm(weights.astype(np.float64))), 1e-300))


# -- with data -----------------------------------------------------------------------------------------------------


def refit(sparse: Sparse, weights: Floats, gram: Tensor, values: str, damping: float = 0.01) -> Sparse:
    """Return the tensor with its integers chosen for the layer's output, on the same scales.

    No channel's output error, over the data of the Gram matrix, is larger than that of `sparse`.

    Args:
        sparse: the plainly rounded weights.
        weights: the alive weights before rounding.
        gram: the sum over positions of x x^T, (groups, inputs, inputs) with inputs in the order of the weight's
            other dimensions.
        values: "int8" or "int4".
        damping: what is added to the diagonal, times its mean.
    """
    assert sparse.scales is not None
    at, codes = sparse.places.numpy(), sparse.codes.clone()
    rows = at // sparse.width
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(starts, append=len(at))
    columns, exact = torch.from_numpy(at % sparse.width), torch.from_numpy(np.ascontiguousarray(weights)).float()
    group = torch.from_numpy(rows[starts] // max(sparse.shape[0] // len(gram), 1))
    scales = sparse.scales[torch.from_numpy(channels(at, sparse.width))]
    for batch in _batches(counts):
        longest = int(counts[batch].max())
        spread = torch.from_numpy(starts[batch])[:, None] + torch.arange(longest)
        real = torch.arange(longest) < torch.from_numpy(counts[batch])[:, None]
        spread = torch.where(real, spread, torch.from_numpy(starts[batch])[:, None])
        inputs = columns[spread]
        quadratic = gram[group[batch][:, None, None], inputs[:, :, None], inputs[:, None, :]]
        quadratic = quadratic * (real[:, :, None] & real[:, None, :])
        mine = exact[spread] * real
        plain = codes[spread].float() * real
        scale = scales[batch][:, None]
        found = _one_by_one(mine, scale, quadratic, LARGEST[values], damping)
        better = _output_error(found * scale - mine, quadratic) < _output_error(plain * scale - mine, quadratic)
        found = torch.where(better[:, None], found, plain)
        codes[spread[real]] = found[real].to(torch.int8)
    return Sparse(sparse.shape, sparse.places, codes, sparse.scales)


def _batches(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Channels of about the same number of weights together, as many as fit into `CHUNK`."""
    order = np.argsort(counts, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * int(counts[order[last]]) ** 2 <= CHUNK:
            last += 1
        yield order[first:last]
        first = last


def _one_by_one(weights: Tensor, scale: Tensor, quadratic: Tensor, top: int, damping: float) -> Tensor:
    """The integers, (channels, weights): each is rounded, and its error spread over those to come.

    The conditional minimum of a quadratic after fixing the first variable is a row of the upper Cholesky factor of
    its inverse. Weights on strong inputs come first.
    """
    diagonal = quadratic.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    quadratic = quadratic.gather(1, order[:, :, None].expand_as(quadratic))
    quadratic = quadratic.gather(2, order[:, None, :].expand_as(quadratic))
    ridge = damping * diagonal.sum(1) / (diagonal != 0).sum(1).clamp(min=1)
    ridge = torch.where(ridge > 0, ridge, torch.ones_like(ridge))
    quadratic = quadratic + torch.diag_embed(ridge[:, None].expand_as(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(quadratic))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left, codes = weights.gather(1, order), torch.zeros_like(weights)
    for i in range(weights.shape[1]):
        codes[:, i] = (left[:, i] / scale[:, 0]).round().clamp(-top, top)
        error = (left[:, i] - codes[:, i] * scale[:, 0]) / upper[:, i, i]
        left[:, i:] -= error[:, None] * upper[:, i, i:]
    return torch.zeros_like(codes).scatter(1, order, codes)


def _output_error(change: Tensor, quadratic: Tensor) -> Tensor:
    """The squared change of each channel's output."""
    return (torch.bmm(change[:, None, :], quadratic) @ change[:, :, None])[:, 0, 0]


def grams(model: nn.Module, names: Sequence[str], data: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the Gram matrices of the inputs of conv and linear weights, as `refit` takes them.

    Weights of other modules are left out. The model runs in eval mode, as often as memory demands, and is left as it was.

    Args:
        model: the network.
        names: of weights.
        data: batches, whose first tensor is the input.

    Raises:
        ResproutError: no batches, or inputs that are not finite.
    """
    if not hasattr(data, "__len__") or len(data) == 0:
        raise ResproutError("data= is read several times: pass a list of batches, with at least one in it")
    modules = dict(model.named_modules())
    known = [n for n in names if isinstance(modules.get(n.removesuffix(".weight")), nn.Conv2d | nn.Linear)]
    while known:
        now, room = [], GRAMS
        while known and (not now or _numbers(modules[known[0].removesuffix(".weight")]) <= room):
            room -= _numbers(modules[known[0].removesuffix(".weight")])
            now.append(known.pop(0))
        yield from _watch(model, {n: modules[n.removesuffix(".weight")] for n in now}, data).items()


def _numbers(module: nn.Module) -> int:
    """How many numbers a module's Gram matrices have."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return getattr(module, "groups", 1) * (weight.numel() // max(len(weight), 1)) ** 2


@torch.no_grad()
def _watch(model: nn.Module, modules: Mapping[str, nn.Module], data: Sequence[Any]) -> dict[str, Tensor]:
    """Run the batches, and sum up x x^T at the input of each module."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            for part in args[0].split(8 if args[0].dim() == 4 else 1 << 14):
                x = _columns(module, part.float())  # (groups, positions, inputs)
                gram = torch.bmm(x.transpose(1, 2), x).cpu()
                found[name] = found[name] + gram if name in found else gram

        return see

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in modules.items()]
    modes = [(m, m.training) for m in model.modules()]
    like = next(model.parameters())
    try:
        model.eval()
        for batch in data:
            model(first_tensor(batch).to(like))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    for name, gram in found.items():
        if not torch.isfinite(gram).all():
            raise ResproutError(f"with data=, the inputs of {name!r} are NaN or infinite")
    return found


def _columns(module: nn.Module, x: Tensor) -> Tensor:
    """The inputs that each output position sees: (groups, positions, inputs)."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(module, nn.Conv2d)
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        padding: Any = 0
    elif isinstance(module.padding, str):
        x = F.pad(x, module._reversed_padding_repeated_twice)
        padding = 0
    else:
        padding = module.padding
    kernel: Any = module.kernel_size
    columns = F.unfold(x, kernel, dilation=module.dilation, padding=padding, stride=module.stride)
    n, inputs, positions = columns.shape
    columns = columns.view(n, module.groups, inputs // module.groups, positions)
    return columns.permute(1, 0, 3, 2).reshape(module.groups, n * positions, inputs // module.groups)
