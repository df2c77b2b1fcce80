"""The curvature of a layer's own error: H = 2 X X^T of its inputs, whose columns are those of the layer's weight.

Frantar, Singh, Alistarh: "Optimal Brain Compression", NeurIPS 2022, arXiv:2208.11580 (the layer-wise problem).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..core.errors import ResproutError
from ..core.probe import Probe, share
from ..core.roles import CONVOLUTIONS

PIECE = 1 << 23  # numbers of unfolded input at a time
CACHED = 1 << 18  # numbers squared at a time: 1 MiB of float32 stays in the cache
STRIPE = 512  # rows of a Gram matrix that are computed at a time
SMALL = 256  # columns of a triangle that is inverted at once


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


def grams(probe: Probe, weights: Sequence[str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return weight -> X X^T of its layer over the batches, (groups, columns, columns); the ranks' mean.

    Layers that read the same tensor (queries, keys and values, say) share one matrix: it is computed and kept once.

    Args:
        probe: with data.
        weights: names of weights of linear layers and convolutions.
        dtype: in which the products are summed; each is computed in float32 at least.

    Raises:
        ResproutError: a layer of another kind, or one that is not run as a module; inputs with NaN or infinity.
    """
    found: dict[str, Tensor] = {}

    def add(weight: str, module: nn.Module, x: Tensor) -> None:
        for part in pieces(module, x):
            rows = columns(module, part).to(torch.promote_types(x.dtype, torch.float32))
            if weight not in found:
                found[weight] = torch.zeros(len(rows), rows.shape[2], rows.shape[2], dtype=dtype, device=rows.device)
            if dtype != rows.dtype:
                found[weight] += (rows.mT @ rows).to(dtype)
            elif rows.shape[2] <= STRIPE:
                found[weight].baddbmm_(rows.mT, rows)
            else:
                for h, x in zip(found[weight], rows, strict=True):
                    for a in range(0, len(h), STRIPE):  # nothing to the left of the diagonal's blocks: half of the work
                        h[a : a + STRIPE, a:].addmm_(x[:, a : a + STRIPE].T, x[:, a:])

    leaders = _see(probe, weights, add)
    for h in found.values():
        for a in range(STRIPE, h.shape[2], STRIPE):
            h[:, a:, a - STRIPE : a] = h[:, a - STRIPE : a, a:].mT
    _check(found)
    shared = {n: share(h) for n, h in found.items()}
    return {n: shared[leaders[n]] for n in weights}


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory, unchanged in between."""
    return (a.data_ptr(), a.shape, a.stride(), a._version) == (b.data_ptr(), b.shape, b.stride(), b._version)


def norms(probe: Probe, weights: Sequence[str]) -> dict[str, Tensor]:
    """Return weight -> the root of the mean square of each input over the batches, float32 (groups, columns).

    Args:
        probe: with data.
        weights: names of weights of linear layers and convolutions.

    Raises:
        ResproutError: as `grams`.
    """
    found: dict[str, Tensor] = {}
    count: dict[str, int] = {}

    def add(weight: str, module: nn.Module, x: Tensor) -> None:
        for part in pieces(module, x):
            rows = columns(module, part)
            count[weight] = count.get(weight, 0) + rows.shape[1]
            for few in rows.split(max(1, CACHED // rows.shape[2]), 1):
                found[weight] = found.get(weight, 0) + few.float().square().sum(1)

    leaders = _see(probe, weights, add)
    _check(found)
    means = {n: share(h / count[n]).sqrt() for n, h in found.items()}
    return {n: means[leaders[n]] for n in weights}


def _see(probe: Probe, weights: Sequence[str], add: Callable[[str, nn.Module, Tensor], None]) -> dict[str, str]:
    """Call `add(weight, module, x)` with what each layer reads, once for linear layers that read the same tensor.

    Returns:
        weight -> the weight that stands for it: itself, or the first of those that read the same.
    """
    names = {n.rpartition(".")[0]: n for n in weights}
    leaders: dict[str, str] = {}
    last: tuple[Tensor, str] | None = None  # the tensor is held, so that its memory is not given to another

    def see(name: str, x: Tensor) -> None:
        nonlocal last
        module, weight = probe.model.get_submodule(name), names[name]
        same = last is not None and isinstance(module, nn.Linear) and _same(last[0], x)
        leader = last[1] if last is not None and same else weight
        if leaders.setdefault(weight, leader) != leader:
            raise ResproutError(f"{weight!r} reads the input of {leader!r} in some batches only; prune them one by one")
        if leader == weight:
            add(weight, module, x)
            last = x, weight

    probe.watch(list(names), see, inputs=True)
    if missing := [n for n in weights if n not in leaders]:
        raise ResproutError(f"nothing is seen of {missing[0]!r}: it is not run as a module; add it to ignore=[...]")
    return leaders


def pieces(module: nn.Module, x: Tensor) -> Sequence[Tensor]:
    """Return the batch in parts whose columns are not too many numbers at a time."""
    grow = max(1, module.weight[0].numel() // max(1, module.weight.shape[1]))  # pyright: ignore
    return x.split(max(1, PIECE // max(1, x[:1].numel() * grow)))


def _check(found: Mapping[str, Tensor]) -> None:
    for name, h in found.items():
        # A finite sum has finite terms, and takes no copies of a matrix.
        if not torch.isfinite(h.sum()) and not torch.isfinite(h).all():
            raise ResproutError(f"the inputs of {name!r} hold NaN or infinity; check the batches and the weights")


def curvature(probe: Probe, weights: Sequence[str], damping: float = 0.01) -> dict[str, Tensor]:
    """Return weight -> H = 2 X X^T of its layer, damped, (groups, columns, columns) in float64.

    Args:
        probe: with data.
        weights: names of weights of linear layers and convolutions.
        damping: the part of the mean of H's diagonal that is added to it.

    Raises:
        ResproutError: as `grams`.
    """
    return {n: damped(2 * h, damping) for n, h in grams(probe, weights, torch.float64).items()}


def damped(h: Tensor, damping: float) -> Tensor:
    """Add that part of the mean of the diagonal of h (groups, columns, columns) to the diagonal, in place; return h."""
    mean = h.diagonal(dim1=1, dim2=2).mean(1)
    h.diagonal(dim1=1, dim2=2).add_(damping * torch.where(mean > 0, mean, 1.0)[:, None])
    return h


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


def factor(h: Tensor) -> Tensor:
    """Return the upper triangular U with U^T U = H^-1: with H = R R^T and R upper triangular, it is R^-1.

    R is the Cholesky factor of H with rows and columns in reverse order, reversed again: a third of the work of inverting H
    and factoring that. All of it happens where h is.

    Args:
        h: (columns, columns), symmetric and contiguous; it is overwritten, and U is in its place.

    Raises:
        ResproutError: h is not positive.
    """
    _reverse(h)
    wrong = torch.empty((), dtype=torch.int32, device=h.device)
    turned = h.mT  # LAPACK's order: nothing is copied, and where it writes an upper triangle h has a lower one
    torch.linalg.cholesky_ex(turned, upper=True, out=(turned, wrong))
    if bool(wrong):
        raise ResproutError("the Gram matrix of a layer is not positive: give more batches, or damping > 0")
    _invert_lower(h)
    _reverse(h)
    return h


def _reverse(h: Tensor) -> None:
    """Reverse the order of rows and columns, in place."""
    flat, size = h.view(-1), h.numel()
    for first in range(0, size // 2, CACHED):
        last = min(first + CACHED, size // 2)
        head, tail = flat[first:last], flat[size - last : size - first]
        kept = head.flip(0)
        head.copy_(tail.flip(0))
        tail.copy_(kept)


def _invert_lower(m: Tensor) -> None:
    """Invert a lower triangular matrix in place: of [[A, 0], [C, B]] it is [[A^-1, 0], [-B^-1 C A^-1, B^-1]]."""
    half = len(m) // 2
    if len(m) <= SMALL:
        m.copy_(torch.linalg.solve_triangular(m, torch.eye(len(m), dtype=m.dtype, device=m.device), upper=False))
        return
    a, b, corner = m[:half, :half], m[half:, half:], m[half:, :half]
    _invert_lower(a)
    _invert_lower(b)
    corner.addmm_(b @ corner, a, beta=0, alpha=-1)


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
