"""Weights on the edge of chaos, and back to it after a cut, as steps; not a method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import nearest
from ...core.kinds import Step
from ...core.probe import Probe
from ...core.run import Run
from ...numerics.mean_field import edge

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu, "linear": lambda x: x}
How = Literal["match", "formula", "none"]


@dataclass(frozen=True)
class OnTheEdge(Step):
    """Draw all prunable weights, and the biases of their layers, anew on the edge of chaos of an activation."""

    activation: str = "relu"
    bias: float = 0.0

    @torch.no_grad()
    def __call__(self, run: Run) -> dict[str, Any]:
        """Draw.

        Raises:
            ResproutError: an unknown activation, or one without an edge at this `bias` (sigma_b).
        """
        if self.activation not in ACTIVATIONS:
            raise nearest(self.activation, ACTIVATIONS, "activation")
        sigma, params = edge(ACTIVATIONS[self.activation], self.bias), dict(run.model.named_parameters())
        for name, weight in run.weights().items():
            draw = torch.randn(weight.shape, generator=run.generator("edge", name))
            weight.copy_(draw * sigma / math.sqrt(max(1, weight[0].numel())))
            bias = params.get(f"{name.rpartition('.')[0]}.bias")
            if bias is not None:
                bias.copy_(torch.randn(bias.shape, generator=run.generator("edge", name, "bias")) * self.bias)
        run.set_masks(run.masks)
        return {"sigma": sigma}


@dataclass(frozen=True)
class Rescale(Step):
    """Multiply what a cut has left of each weight by one factor, so that signals pass as they did at the point `of`.

    "match": one layer after another, so that the mean square of its outputs on the run's probe is that of the dense network.
    "formula": by the share of its squares that a weight has kept; right only where the mask knows nothing of the inputs.
    """

    of: str
    how: Literal["match", "formula"] = "match"

    def __call__(self, run: Run) -> dict[str, Any]:
        """Rescale; the facts are the factors."""
        dense = run.tensors_at(self.of)
        if self.how == "formula":
            return {"factors": by_formula(run.weights(), dense)}
        live = run.probe("rescale")
        whole = Probe(run.model, run.masks, live.data(), run.task.loss, dense).at_anchor()
        live.training = whole.training = False
        return {"factors": by_match(live, whole)}


@torch.no_grad()
def by_formula(weights: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> dict[str, float]:
    """Multiply each weight by 1 / sqrt(a), a being the share of its squares that is left; return the factors."""
    factors = {}
    for name, weight in weights.items():
        left, had = float(weight.double().square().sum()), float(dense[name].double().square().sum())
        factors[name] = math.sqrt(had / left) if left > 0 else 1.0
        weight.mul_(factors[name])
    return factors


@torch.no_grad()
def by_match(live: Probe, dense: Probe) -> dict[str, float]:
    """Multiply the weights of `live`, in the order in which their layers run, so that each layer's mean square is `dense`'s."""
    names, params = {n.rpartition(".")[0]: n for n in live.names}, dict(live.model.named_parameters())
    wanted: dict[str, list[Tensor]] = {}
    dense.watch(list(names), lambda n, out: wanted.setdefault(n, []).append(out.double().square().mean()))
    factors = {}
    for layer in wanted:  # in the order of running
        seen, weight = [], params[names[layer]]
        bias = params.get(f"{layer}.bias", torch.zeros(())).double()
        if bias.dim() and weight.dim() > 2:  # a convolution puts channels before places, whatever it convolves over
            bias = bias.view(-1, *[1] * (weight.dim() - 2))

        def see(name: str, out: Tensor, b: Tensor = bias, seen: list = seen) -> None:
            own = out.double() - b
            seen.append(
                torch.stack([own.square().mean(), (own * b).mean(), (b * torch.ones_like(own)).square().mean()])
            )

        live.watch([layer], see)
        square, cross, alone = torch.stack(seen).mean(0).tolist()
        goal = float(torch.stack(wanted[layer]).mean())
        inner = cross**2 - square * (alone - goal)  # of the square of (factor * own + bias)
        factor = (math.sqrt(inner) - cross) / square if square > 0 and inner > 0 else 1.0
        factors[names[layer]] = factor if factor > 0 else 1.0
        weight.mul_(factors[names[layer]])
    return factors
