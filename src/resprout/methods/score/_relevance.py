"""Layer-wise relevance propagation through a whole network, as gradients of a special kind; not a method.

What flows back is relevance per activation, c = R / a. Sums, pooling, ReLU, flattening and dropout then need no rule: the
gradients they have split relevance in proportion, or give it to the winner. Linear layers and convolutions have the
alpha-beta rule in place of theirs; batch norms right behind them are folded in first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.errors import ResproutError
from ...core.masks import PRUNABLE
from ...core.probe import Probe, first_tensor, to_device
from ._norms import next_norms
from ._rows import owner

TINY = 1e-9
Look = Callable[[str, Tensor], None]
Forward = Callable[[Tensor, Tensor], Tensor]


class _Relay(torch.autograd.Function):
    """A layer's own output; backwards, the relevance of its inputs per input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, weight: Tensor, run: Forward, alpha: float, see: Look) -> Tensor:
        ctx.save_for_backward(x, out, weight)
        ctx.how = run, alpha, see
        return out.clone()

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, out, weight = ctx.saved_tensors
        run, alpha, see = ctx.how
        relevance = c * out
        see(relevance)
        found = alpha * _shared(x, weight, run, relevance, 1.0)
        if alpha != 1:
            found = found - (alpha - 1) * _shared(x, weight, run, relevance, -1.0)
        return found, None, None, None, None, None


def _shared(x: Tensor, weight: Tensor, run: Forward, relevance: Tensor, sign: float) -> Tensor:
    """What each input gets per its own value, of relevance split in proportion to the contributions of one sign."""
    parts = [(x.clamp(min=0), (sign * weight).clamp(min=0)), (x.clamp(max=0), (sign * weight).clamp(max=0))]
    with torch.enable_grad():
        inputs = [part.detach().requires_grad_() for part, _ in parts]
        whole = torch.stack([run(i, w) for i, (_, w) in zip(inputs, parts, strict=True)]).sum(0)  # 0 or more
        share = (relevance / (whole.detach() + TINY)).masked_fill(whole.detach() <= TINY, 0.0)
        positive, negative = torch.autograd.grad(whole, inputs, share)
    return torch.where(x >= 0, positive, negative)


def relevance(probe: Probe, look: Callable[[str, Tensor], None], alpha: float = 1.0) -> None:
    """Call `look(weight, R)` for every batch and prunable layer with the relevance of its outputs for the true class.

    It begins as the logit of the true class at that output, of all samples of the batch together, each by itself. Without
    biases, and with alpha = 1 on a network of ReLUs, it sums to that logit at every layer.

    Args:
        probe: with data of (inputs, labels).
        look: of weight and relevance (of the form of the layer's output).
        alpha: of the rule alpha-beta, with beta = alpha - 1.

    Raises:
        ResproutError: batches without classes, or layers that no rule is known for.
    """
    model = _folded(probe)
    for weight in probe.names:
        module = model.get_submodule(owner(weight))
        if not isinstance(module, PRUNABLE) or getattr(module, "padding_mode", "zeros") != "zeros":
            raise ResproutError(f"no rule of relevance is known for {weight!r}; add it to ignore=[...]")
        module.register_forward_hook(_hook(weight, module, look, alpha))
    device = next(model.parameters()).device
    for batch in probe.data():
        batch = to_device(batch, device)
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
            raise ResproutError("relevance is that of the true class: batches must be (inputs, labels)")
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            out = first_tensor(model(first_tensor(batch).detach().requires_grad_()))
            out.gather(1, labels[:, None]).sum().backward()


def _hook(weight: str, module: nn.Module, look: Look, alpha: float) -> Callable[..., Tensor]:
    twin = copy.deepcopy(module)  # without the hook
    twin.register_parameter("bias", None)

    def run(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(twin, {"weight": w}, (x,))

    def hook(module: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return _Relay.apply(args[0], out.detach(), module.weight.detach(), run, alpha, lambda r: look(weight, r))  # pyright: ignore

    return hook


@torch.no_grad()
def _folded(probe: Probe) -> nn.Module:
    """Return a copy of the network in evaluation mode, batch norms right behind a layer folded into it."""
    model = copy.deepcopy(probe.model).eval()
    tensors = probe._tensors()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.copy_(tensors[name])
    for weight, behind in next_norms(probe).items():
        norm, layer = model.get_submodule(behind), model.get_submodule(owner(weight))
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
            continue
        if not isinstance(layer, PRUNABLE) or "Transpose" in type(layer).__name__:
            continue
        factor = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
        shift = -norm.running_mean * factor + (0.0 if norm.bias is None else norm.bias)
        layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * factor + shift)
        place, _, leaf = behind.rpartition(".")
        model.get_submodule(place)._modules[leaf] = nn.Identity()
    for p in model.parameters():
        p.requires_grad_(False)
    return model
