"""Do two networks lie in one valley, and do they see alike? Linear mode connectivity, and linear CKA.

Yang, Hodgkinson, Theisen, Zou, Gonzalez, Ramchandran, Mahoney: "Taxonomizing local versus global structure in neural network
loss landscapes", NeurIPS 2021, arXiv:2107.11228 (mode connectivity with its sign); Kornblith, Norouzi, Lee, Hinton: "Similarity
of Neural Network Representations Revisited", ICML 2019, arXiv:1905.00414 (CKA); Garipov et al., NeurIPS 2018,
arXiv:1802.10026 (norms have their statistics taken anew at every point of a path).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, nearest
from ..core.modes import evaluating
from ..core.norms import refresh
from ..core.probe import first_tensor
from ..core.run import mix
from ..core.task import Split, Task


@dataclass(frozen=True)
class Line:
    """What was measured on the straight line between two networks: values[i] at the share places[i] of the second."""

    places: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def connectivity(self) -> float:
        """See `mode_connectivity`."""
        return mode_connectivity(self.values)


def mode_connectivity(values: Sequence[float]) -> float:
    """Return mc = (L(first) + L(last)) / 2 - L(w), w being the point of the line where that is furthest from 0.

    Negative: a barrier, the networks are badly connected; about 0: well connected; positive: the way between is better than
    its ends, which are under-trained.

    Args:
        values: losses or errors at even steps of the line, both ends included.

    Raises:
        ResproutError: fewer than three.
    """
    if len(values) < 3:
        raise ResproutError(f"a line needs three points or more, both ends included, got {len(values)}")
    middle = (values[0] + values[-1]) / 2
    return max((middle - v for v in values), key=lambda gap: (abs(gap), -gap))


def between(
    a: nn.Module,
    b: nn.Module,
    task: Task,
    *,
    points: int = 11,
    measure: str = "error",
    split: Split = "train",
    batches: int | None = None,
) -> Line:
    """Measure the networks on the straight line from `a` to `b`, their norms' statistics taken anew at each.

    Args:
        a, b: two networks of one architecture; left as they are.
        task: its training batches set the norms, its metrics are taken.
        points: of the line, both ends included.
        measure: "error" for 1 - the task's metric, or one of its metrics, such as "loss".
        split: of the data that the measure is of.
        batches: training batches that the norms see; default an epoch's.

    Raises:
        ResproutError: networks that differ in more than values, or a measure that the task does not have.
    """
    one, other = a.state_dict(), b.state_dict()
    if {n: t.shape for n, t in one.items()} != {n: t.shape for n, t in other.items()}:
        odd = sorted(n for n in {*one, *other} if n not in one or n not in other or one[n].shape != other[n].shape)
        raise ResproutError(f"a line joins two networks of one architecture; these differ in {', '.join(odd[:3])}")
    if points < 3:
        raise ResproutError(f"points must be 3 or more, got {points!r}")
    model = copy.deepcopy(a)
    places, values = [i / (points - 1) for i in range(points)], []
    for t in places:
        model.load_state_dict({n: w.lerp(other[n].to(w), t) if w.is_floating_point() else w for n, w in one.items()})
        refresh(model, task, batches)
        with evaluating(model), torch.no_grad():
            values.append(_measured(task.evaluate(model, split), task.metric, measure))
    return Line(tuple(places), tuple(values))


def _measured(metrics: Mapping[str, float], metric: str, measure: str) -> float:
    if measure == "error":
        return 1 - float(metrics[metric])
    if measure not in metrics:
        raise nearest(measure, [*metrics, "error"], "measure")
    return float(metrics[measure])


# -- representations -----------------------------------------------------------------------------------------------


def cka(x: Tensor, y: Tensor) -> float:
    """Return the linear CKA of two representations of the same samples: 1 where one is a rotation and scaling of the other.

    Args:
        x, y: (samples, features), of as many features as each has.

    Returns:
        a number in [0, 1]; NaN where one of them is the same for all samples.

    Raises:
        ResproutError: samples that do not match, or fewer than two.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < 2:
        raise ResproutError(
            f"CKA needs (samples, features) of the same two samples or more, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    if len(x) <= max(x.shape[1], y.shape[1]):  # the same numbers from the Gram matrices of the samples
        k, m = x @ x.T, y @ y.T
        across, own = (k * m).sum(), (k.norm() * m.norm())
    else:
        across, own = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(across / own) if float(own) > 0 else float("nan")


def similarity(
    a: nn.Module,
    b: nn.Module,
    task: Task,
    *,
    layer: str | None = None,
    samples: int = 1000,
    alpha: float = 16.0,
    seed: int = 0,
) -> float:
    """Return the linear CKA of what two networks make of mixed training inputs.

    Args:
        a, b: two networks; left as they are.
        task: of the inputs.
        layer: name of the module whose output is compared; default the networks' own (logits).
        samples: of inputs.
        alpha: inputs are mixed in pairs, as x t + x' (1 - t) with t from Beta(alpha, alpha); 0 leaves them as they are.
        seed: of order and mixture.

    Raises:
        ResproutError: a layer that is not there, or fewer than two samples.
    """
    if samples < 2 or alpha < 0:
        raise ResproutError(f"samples must be 2 or more and alpha 0 or more, got {samples!r} and {alpha!r}")
    inputs = _mixed(task, samples, alpha, seed)
    return cka(features(a, inputs, layer), features(b, inputs, layer))


@torch.no_grad()
def features(model: nn.Module, inputs: Tensor, layer: str | None = None) -> Tensor:
    """Return what the module `layer` (default the network) puts out for each input, flat: (samples, features).

    Raises:
        ResproutError: a layer that is not there, or that is not used.
    """
    found: list[Tensor] = []
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise nearest(layer, [n for n in modules if n], "layer")

    def see(module: nn.Module, args: Any, output: Tensor) -> None:
        found.append(output.flatten(1).float().cpu())

    handle = modules[layer or ""].register_forward_hook(see)
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for part in inputs.split(500):
                model(part.to(device))
    finally:
        handle.remove()
    if sum(map(len, found)) != len(inputs):
        raise ResproutError(f"layer {layer!r} does not run once for each input; name one that does")
    return torch.cat(found)


def _mixed(task: Task, samples: int, alpha: float, seed: int) -> Tensor:
    """Training inputs, mixed in pairs."""
    parts, count = [], 0
    for batch in task.batches("train", seed=mix(seed, "mixed")):
        parts.append(first_tensor(batch))
        count += len(parts[-1])
        if count >= samples:
            break
    x = torch.cat(parts)[:samples]
    if alpha == 0:
        return x
    generator = torch.Generator().manual_seed(mix(seed, "pairs"))
    pair = torch.randperm(len(x), generator=generator)
    rate = torch.full((2, len(x)), float(alpha))
    drawn = torch._standard_gamma(rate, generator)
    t = (drawn[0] / drawn.sum(0)).view(-1, *(1,) * (x.dim() - 1))
    return x * t + x[pair] * (1 - t)
