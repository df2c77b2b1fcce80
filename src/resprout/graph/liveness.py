"""Liveness: which channels and heads cannot matter under any mask of weights, and the constants that they leave behind.

Tessier, Gripon, Léonardon, Arzel, Bertrand, Hannagan: "Leveraging Structured Pruning of Convolutional Neural Networks",
IEEE SiPS 2022, arXiv:2206.06247. The paper sends ones forwards and gradients backwards through a copy without biases; here
the same fixed point is taken on the groups, and biases are not left out: what is constant is measured, and folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, TraceError
from ..core.masks import Masks
from ..core.probe import first_tensor
from ..core.roles import CONVOLUTIONS, TRANSPOSED, inputs_first, mixes, owner, role, tensors
from ..core.units import Slot
from .alike import CLOSE, applied, difference, outputs
from .remove import remove
from .tape import arguments, aside
from .trace import Structure

key = "leveraging-shrink"
fidelity = "identity-checked"


def live(model: nn.Module, masks: Masks, structure: Structure, example: Any = None) -> dict[str, Tensor]:
    """Return group -> bool (units,): False for what can leave without a change of the masked model's outputs.

    A unit is dead if nothing that lives reads it, or if it is a constant that all its readers can take into their biases
    (see `settle`, which does so). Of a group of which nothing lives one unit is kept.

    Args:
        model: the dense or masked model, judged as it is in evaluation mode; it is left as it is.
        masks: which weights are alive.
        structure: what `trace` found.
        example: what the model can be called with; without it no constants are found, only what nothing reads.
    """
    return _alive(_flow(applied(model, masks), structure, example))


def settle(
    model: nn.Module, masks: Masks, structure: Structure, example: Any
) -> tuple[nn.Module, Structure, dict[str, Tensor]]:
    """Return the masked model with the constants of dead units in their readers' biases, its structure, and what `live` says.

    `remove(*settle(...))` is the smaller network. A reader without a bias gets one, and the groups its slots.

    Raises:
        TraceError: the model computes something else afterwards; then the structure belongs to another model.
    """
    twin = applied(model, masks)
    wished, flow = outputs(twin, example), _flow(twin, structure, example)
    groups = {g.name: g for g in structure.groups}
    for layer in flow.layers.values():
        for name, slot in _fold(twin, layer, flow):
            groups[name] = replace(groups[name], slots=(*groups[name].slots, slot))
    if (gap := difference(wished, outputs(twin, example))) > CLOSE:
        raise TraceError(f"{type(model).__name__} differs by {gap:.1e} after folding; trace the model that is given")
    return twin, replace(structure, groups=tuple(groups.values())), _alive(flow)


def aim(
    model: nn.Module, structure: Structure, example: Any, choose: Callable[[float], Masks], left: int, tries: int = 16
) -> tuple[Masks, int]:
    """Return the masks of the lowest sparsity that really leaves at most `left` parameters, and how many it leaves.

    What cannot matter leaves too, so that a sparsity chosen by counting alone misses.

    Args:
        model: the dense model.
        structure: what `trace` found.
        example: what the model can be called with.
        choose: sparsity in [0, 1] -> masks; the higher, the fewer alive.
        left: parameters of the smaller network.
        tries: bisections.

    Raises:
        ResproutError: even sparsity 1 leaves more.
    """

    def attempt(sparsity: float) -> tuple[Masks, int]:
        masks = choose(sparsity)
        return masks, sum(p.numel() for p in remove(*settle(model, masks, structure, example)).parameters())

    low, high, best = 0.0, 1.0, attempt(1.0)
    if best[1] > left:
        raise ResproutError(
            f"cannot leave {left:,} parameters: with all units dead but one of each group {best[1]:,} are"
        )
    for _ in range(tries):
        middle = (low + high) / 2
        found = attempt(middle)
        if found[1] <= left:
            high, best = middle, found
        else:
            low = middle
    return best


@dataclass(eq=False)
class Layer:
    """One weight: which of its outputs depend on which inputs, and whose units these are.

    Attributes:
        name: the weight's.
        module: its owner.
        uses: bool (outputs, inputs), the weights that are not zero.
        known: whether the inputs are those of groups; tables have none, and grouped convolutions share theirs.
        makes: (group, index (units, repeat)) of the outputs.
        reads: the same of the inputs.
        value: (inputs,) the constant that each input is, NaN where it is none.
    """

    name: str
    module: nn.Module
    uses: Tensor
    known: bool
    makes: list[tuple[str, Tensor]] = field(default_factory=list)
    reads: list[tuple[str, Tensor]] = field(default_factory=list)
    value: Tensor = field(default_factory=lambda: torch.empty(0))

    def takes(self) -> Tensor:
        """Whether each input can go into the bias, bool (inputs,): zeros always, constants where no border differs."""
        module = self.module
        flat = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if isinstance(module, CONVOLUTIONS) and module.groups == 1:
            flat = module.padding_mode != "zeros" or not any(module._reversed_padding_repeated_twice)
        return (self.value == 0) | (~self.value.isnan() & flat)


class Flow:
    """The fixed point: units that are constant, and units that nothing reads, until there is nothing new.

    Args:
        layers: the weights.
        groups: the units that are judged, group -> number.
    """

    def __init__(self, layers: Mapping[str, Layer], groups: Mapping[str, int]):
        self.layers, self.groups, self.rounds = layers, groups, 0
        self.dead = {g: torch.zeros(n, dtype=torch.bool) for g, n in groups.items()}
        self.folded = {g: torch.zeros(n, dtype=torch.bool) for g, n in groups.items()}
        self._made = {g for layer in layers.values() for g, _ in layer.makes}
        self._read = {g for layer in layers.values() for g, _ in layer.reads}
        self._run()

    def _run(self) -> None:
        before = -1
        while (now := sum(int(d.sum()) for d in self.dead.values())) != before:
            before, self.rounds = now, self.rounds + 1
            for name, constant in self._constant().items():
                self.folded[name] |= constant & ~self.dead[name]
                self.dead[name] |= constant
            for name, idle in self._idle().items():
                self.dead[name] |= idle

    def matters(self, layer: Layer) -> Tensor:
        """Return which outputs of a layer are of units that live (or of none), bool (outputs,)."""
        rows = torch.ones(len(layer.uses), dtype=torch.bool)
        for group, index in layer.makes:
            if group in self.dead:
                rows[index[self.dead[group]].flatten()] = False
        return rows

    def _constant(self) -> dict[str, Tensor]:
        """Return the units that are constant, and that every reader that matters can take.

        From all units, those go that an input reaches, or that a reader cannot take: the greatest fixed point, which is
        right because a network has no cycles, though a residual sum reads and makes the same units.
        """
        found = {g: torch.ones(n, dtype=torch.bool) & (g in self._made) for g, n in self.groups.items()}
        while True:
            before = sum(int(f.sum()) for f in found.values())
            for layer in self.layers.values():
                varies = torch.ones(layer.uses.shape[1], dtype=torch.bool)
                for group, index in layer.reads:
                    if group in found and layer.known:
                        varies[index[found[group]].flatten()] = False
                reached = (layer.uses & varies).any(1)
                for group, index in layer.makes:
                    if group in found:
                        found[group] &= ~reached[index].any(1)
                refused = (layer.uses & self.matters(layer)[:, None]).any(0) & ~layer.takes()
                for group, index in layer.reads:
                    if group in found:
                        found[group] &= ~refused[index].any(1)
            if sum(int(f.sum()) for f in found.values()) == before:
                return found

    def _idle(self) -> dict[str, Tensor]:
        """Return the units that no output that matters uses: the greatest fixed point again."""
        before, kept = -1, dict(self.dead)
        found = {g: torch.ones(n, dtype=torch.bool) & (g in self._read) for g, n in self.groups.items()}
        try:
            while (now := sum(int(f.sum()) for f in found.values())) != before:
                before = now
                self.dead = {g: kept[g] | found[g] for g in kept}
                for layer in self.layers.values():
                    used = (layer.uses & self.matters(layer)[:, None]).any(0)
                    for group, index in layer.reads:
                        if group in found:
                            found[group] &= ~used[index].any(1)
        finally:
            self.dead = kept
        return found


def _alive(flow: Flow) -> dict[str, Tensor]:
    alive = {g: ~d for g, d in flow.dead.items()}
    for units in alive.values():
        units[0] |= not bool(units.any())
    return alive


def _flow(model: nn.Module, structure: Structure, example: Any) -> Flow:
    layers: dict[str, Layer] = {}
    judged = {g.name: len(g) for g in structure.groups}
    for group in structure.groups:
        for slot in group.slots:
            what = role(model, slot)
            if what != "carry":
                layer = _layer(model, slot, layers)
                (layer.makes if what == "make" else layer.reads).append((group.name, slot.index))
    fixed = {g.name for g in structure.groups if g.kind == "layer" or mixes(model, g)}
    if example is not None:
        measure(model, layers.values(), example)
    flow = Flow(layers, {g: n for g, n in judged.items() if g not in fixed})
    for name in fixed:
        flow.dead[name] = flow.folded[name] = torch.zeros(judged[name], dtype=torch.bool)
    return flow


def _layer(model: nn.Module, slot: Slot, layers: dict[str, Layer]) -> Layer:
    """Return the layer of a slot that makes or reads, a new one if need be."""
    module, weight = owner(model, slot.parameter), tensors(model)[slot.parameter].detach().cpu()
    table = isinstance(module, nn.Embedding) or (weight.dim() > 2 and not isinstance(module, CONVOLUTIONS | TRANSPOSED))
    name = f"{slot.parameter}:{slot.dim}" if table else slot.parameter
    if name not in layers:
        turned = weight.movedim(slot.dim, 0) if table else weight.transpose(0, 1) if inputs_first(module) else weight
        uses = turned.reshape(len(turned), 1 if table else turned.shape[1], -1).any(2)
        known = not table and getattr(module, "groups", 1) == 1
        layers[name] = Layer(slot.parameter, module, uses, known, value=torch.full((uses.shape[1],), torch.nan))
    return layers[name]


def _fold(model: nn.Module, layer: Layer, flow: Flow) -> Iterator[tuple[str, Slot]]:
    """Put the constants that a layer reads of dead units into its bias, in place; yield the slots of a new bias."""
    gone = torch.zeros(layer.uses.shape[1], dtype=torch.bool)
    for group, index in layer.reads:
        if group in flow.folded:
            gone[index[flow.folded[group]].flatten()] = True
    if not bool(gone.any()):
        return
    module, weight = layer.module, tensors(model)[layer.name]
    with torch.no_grad():
        turned = weight.transpose(0, 1) if inputs_first(module) else weight
        value = (
            torch.where(gone, layer.value, 0.0).nan_to_num(0.0).to(weight)
        )  # NaN only for outputs that do not matter
        shift = turned.reshape(*turned.shape[:2], -1).sum(2) @ value
        weight.index_fill_(int(inputs_first(module)) ^ 1, torch.nonzero(gone).flatten().to(weight.device), 0)
        if not bool(value.any()):
            return
        if module.bias is not None:
            module.bias.add_(shift)  # pyright: ignore[reportCallIssue]
            return
    module.bias = nn.Parameter(shift)
    for group, index in layer.makes:
        yield group, Slot(f"{layer.name.rpartition('.')[0]}.bias".lstrip("."), 0, index)


@torch.no_grad()
def measure(model: nn.Module, layers: Any, example: Any) -> None:
    """Find which inputs of the layers are constant, over samples, positions, calls, and three inputs of the model."""
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def see(layer: Layer, x: Tensor) -> None:
        kernel = len(getattr(layer.module, "kernel_size", ()))
        x = x.detach().movedim(-1 - kernel, 0).flatten(1).float().cpu()
        small, large = x.amin(1).view(-1, layer.uses.shape[1]).amin(0), x.amax(1).view(-1, layer.uses.shape[1]).amax(0)
        low[layer.name] = torch.minimum(low.get(layer.name, small), small)
        high[layer.name] = torch.maximum(high.get(layer.name, large), large)

    def hook(layer: Layer) -> Any:
        return lambda module, args, given: see(layer, first_tensor((args, given) if args else given))

    seen = [
        la for la in layers if isinstance(la.module, nn.Linear | CONVOLUTIONS | TRANSPOSED) or inputs_first(la.module)
    ]
    handles = [la.module.register_forward_pre_hook(hook(la), with_kwargs=True) for la in seen]
    try:
        for one in variants(example):
            args, kwargs = arguments(one)
            with aside(model):
                model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for layer in (la for la in seen if la.name in low):
        small, large = low[layer.name], high[layer.name]
        same = large - small <= 1e-6 * large.abs().clamp_min(1.0)
        layer.value = torch.where(same, (small + large) / 2, torch.nan)


def variants(example: Any) -> list[Any]:
    """Return an example and two of its shape: noise for numbers, another order for whole numbers."""
    generator = torch.Generator().manual_seed(0)

    def other(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            if tree.is_floating_point():
                return torch.randn(tree.shape, generator=generator).to(tree)
            return tree.flip(-1) if tree.dim() and tree.dtype != torch.bool else tree
        if isinstance(tree, Mapping):
            return {k: other(v) for k, v in tree.items()}
        return type(tree)(other(v) for v in tree) if isinstance(tree, tuple | list) else tree

    return [example, other(example), other(example)]
