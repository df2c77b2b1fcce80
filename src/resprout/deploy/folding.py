"""What of a network goes into a file: its `state_dict`, or with a traced program the weights with norms folded in.

What this file does not do: find out what can be folded (`trace.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from .program import Scale

if TYPE_CHECKING:
    from .encoding import Archive
    from .trace import Traced


@dataclass(frozen=True)
class Stored:
    """The tensors of a file.

    Attributes:
        tensors: name -> tensor, on the processor; each stored once.
        factors: name of a weight -> float64 factor per output channel that folding puts into it.
        ties: further name of a tensor -> the name that it is stored under.
        unused: names in the `state_dict` that the program does not need.
    """

    tensors: dict[str, Tensor]
    factors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def stored(model: nn.Module, traced: Traced | None = None) -> Stored:
    """Return what a file of `model` holds, from its present weights; they may be others than when it was traced."""
    state = {n: t.detach() for n, t in model.state_dict().items() if t.is_floating_point()}
    first: dict[tuple[object, ...], str] = {}
    ties = {n: where for n, t in state.items() if (where := first.setdefault(_identity(n, t), n)) != n}
    state = {n: t.cpu() for n, t in state.items()}
    own = {n: t for n, t in state.items() if n not in ties}
    if traced is None:
        return Stored(own, ties=ties)
    scaled = {op.weight: op.weight.rpartition(".")[0] for op in traced.program.ops if isinstance(op, Scale)}
    norms = {p: _norm(state, model.get_submodule(p)) for p in _prefixes(traced, scaled, state)}
    tensors, factors = {}, {}
    for name in traced.tensors:
        prefix, _, leaf = name.rpartition(".")
        if name in traced.folds:
            tensors[name], factors[name] = own[name], norms[traced.folds[name]][0]
        elif prefix in norms and leaf in ("weight", "bias"):
            factor, shift = norms[prefix]
            weight = next((w for w, p in traced.folds.items() if p == prefix), "")
            bias = state.get(f"{weight.rpartition('.')[0]}.bias")
            whole = shift if bias is None or not weight else shift + bias.double() * factor
            tensors[name] = (whole if leaf == "bias" else factor).float()
        else:
            tensors[name] = own.get(name, traced.tensors[name])
        if tensors[name].shape != traced.tensors[name].shape:
            raise ResproutError(f"{name!r} has another shape than when the network was traced; trace it again")
    tensors |= {n: own[n] for n in traced.sources if n in own and n not in tensors}
    covered = {*tensors, *(f"{p}.{leaf}" for p in norms for leaf in ("weight", "bias", "running_mean", "running_var"))}
    covered |= {f"{w.rpartition('.')[0]}.bias" for w in traced.folds}
    used = {n: where for n, where in ties.items() if where in covered}
    return Stored(tensors, factors, used, tuple(n for n in state if n not in covered and n not in used))


def _identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are one."""
    if not tensor.numel():
        return (name,)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _prefixes(traced: Traced, scaled: dict[str, str], state: dict[str, Tensor]) -> set[str]:
    """The batch norms that were folded or that became a `Scale`."""
    return {*traced.folds.values(), *(p for p in scaled.values() if f"{p}.running_mean" in state)}


def _norm(state: dict[str, Tensor], norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as factor and shift per channel, float64."""
    mean, var, weight, bias = (getattr(norm, n) for n in ("running_mean", "running_var", "weight", "bias"))
    factor = (var.detach().cpu().double() + norm.eps).rsqrt()
    factor = factor if weight is None else factor * weight.detach().cpu()
    shift = -mean.detach().cpu() * factor
    return factor, shift if bias is None else shift + bias.detach().cpu()


def restored(archive: Archive, model: nn.Module) -> dict[str, Tensor]:
    """Return a `state_dict` (without integers) for `model`, so that it computes in eval mode what the file says.

    A norm that is folded only adds its bias: it has mean 0, variance 1 and weight sqrt(1 + eps), or, without weight and
    bias of its own, variance 1 - eps and the mean -bias. A convolution's own bias becomes 0.
    """
    state = archive.tensors()
    if archive.program is None:
        return state
    folds, own = archive.folds, model.state_dict()
    for name, norm in model.named_modules():
        if not isinstance(getattr(norm, "running_mean", None), Tensor) or f"{name}.running_mean" in state:
            continue
        folded = name in folds.values()
        if f"{name}.bias" not in state or not (folded or f"{name}.weight" in state):
            continue  # a norm that the program does not use
        eps, shift = float(norm.eps), state.pop(f"{name}.bias")  # pyright: ignore[reportArgumentType]
        factor = torch.ones_like(shift) if folded else state.pop(f"{name}.weight")
        if getattr(norm, "weight", None) is not None:
            state[f"{name}.weight"] = (factor.double() * (1 + eps) ** 0.5).float()
            state[f"{name}.bias"] = shift
            state[f"{name}.running_mean"], state[f"{name}.running_var"] = (
                torch.zeros_like(shift),
                torch.ones_like(shift),
            )
        else:
            variance = factor.double() ** -2
            state[f"{name}.running_var"] = (variance - eps).float()
            state[f"{name}.running_mean"] = (-shift.double() / factor).float()
    for weight in folds:
        bias = f"{weight.rpartition('.')[0]}.bias"
        if bias in own:
            state[bias] = torch.zeros(own[bias].shape)
    return {n: t for n, t in state.items() if n in own or n in archive.weights}  # without the program's constants
