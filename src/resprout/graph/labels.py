"""Labels: which indices of which dimensions of which parameters each element of a tensor hangs on.

Every index of every dimension of every parameter is an *atom*, a whole number. A tensor that is computed carries `layers`:
whole-number tensors that broadcast to its shape, so that an element is gone when its atom in any layer is. Operations
that move elements move labels likewise; operations that combine tensors demand that atoms live or die together.

What this file does not do: know operations (`rules.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

OUTSIDE = 0  # the atom of what cannot leave: the network's inputs and outputs, padding, constants


@dataclass
class Value:
    """The labels of one tensor.

    Attributes:
        shape: its shape.
        layers: its labels.
        constant: it does not depend on the network's inputs.
        uniform: it is one number everywhere, made to the measure of something: whatever leaves there, it can follow.
    """

    shape: tuple[int, ...]
    layers: list[Tensor] = field(default_factory=list)
    constant: bool = False
    uniform: bool = False


def varying(layer: Tensor) -> list[int]:
    """The dimensions along which labels differ."""
    return [d for d, n in enumerate(layer.shape) if n > 1]


def compress(layer: Tensor) -> Tensor:
    """Keep one entry of each dimension along which labels do not differ."""
    for d, n in enumerate(layer.shape):
        if n > 1:
            first = layer.narrow(d, 0, 1)
            if layer.stride(d) == 0 or bool((layer == first).all()):
                layer = first
    return layer


class Labels:
    """All atoms, and what is demanded of them."""

    def __init__(self) -> None:
        self.where: list[tuple[str, int, int, int]] = []  # parameter, dimension, first atom, atoms
        self.count = 1  # OUTSIDE
        self.heads: list[Tensor] = []  # atoms of attention heads
        self.read: list[Tensor] = []  # atoms of parameters that read, in a sum of products
        self.counted: list[tuple[Tensor, str]] = []  # atoms whose number a norm knows, and the norm's module
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._frozen: list[tuple[Tensor, str]] = []
        self._slabs: list[Tensor] = []
        self._parts: list[Sequence[Tensor]] = []

    def parameter(self, name: str, shape: Sequence[int]) -> Value:
        """Give every index of every dimension of a parameter an atom."""
        layers = []
        for dim, size in enumerate(shape):
            self.where.append((name, dim, self.count, size))
            sizes = [size if d == dim else 1 for d in range(len(shape))]
            layers.append(torch.arange(self.count, self.count + size).reshape(sizes))
            self.count += size
        return Value(tuple(shape), layers, constant=True)

    # -- demands -----------------------------------------------------------------------------------------------

    def unify(self, a: Tensor, b: Tensor) -> None:
        """The atoms at one place (after broadcasting) live or die together."""
        a, b = torch.broadcast_tensors(a, b)
        self._pairs.append((a.reshape(-1), b.reshape(-1)))

    def freeze(self, layer: Tensor, reason: str) -> None:
        """These atoms cannot leave."""
        self._frozen.append((layer.reshape(-1), reason))

    def pin(self, layer: Tensor, dims: Sequence[int], reason: str) -> Tensor | None:
        """Nothing may leave along `dims`: what differs there lives or dies together with its neighbours.

        Returns the layer without these dimensions, or None if it differed along them alone (and is frozen).
        """
        pinned = [d for d in varying(layer) if d in dims]
        if not pinned:
            return layer
        if pinned == varying(layer):
            self.freeze(layer, reason)
            return None
        first = layer
        for d in pinned:
            first = first.narrow(d, 0, 1)
        self.unify(layer, first)
        return first

    def rectangle(self, layer: Tensor) -> None:
        """What leaves must be whole slabs along one dimension of this layer."""
        if len(varying(layer)) > 1:
            self._slabs.append(layer)

    def balance(self, parts: Sequence[Tensor]) -> None:
        """Parts of one size must keep one size."""
        self._parts.append([p.reshape(-1) for p in parts])

    # -- what two tensors demand of each other -----------------------------------------------------------------

    def merge(self, a: Tensor, b: Tensor, constant_a: bool, constant_b: bool, reason: str) -> list[Tensor]:
        """Two layers of one element-by-element operation that differ along a common dimension become one.

        A constant that is shared along a dimension of the other (one scale for every head, say) stays whole, and so does
        what meets it.
        """
        da, db = set(varying(a)), set(varying(b))
        for one, other, constant in ((a, b, constant_b), (b, a, constant_a)):
            if constant and set(varying(other)) < set(varying(one)):
                rest = self.pin(one, varying(other), reason)
                self.freeze(other, reason)
                return [] if rest is None else [rest]
        self.unify(a, b)
        return [a if len(da) <= len(db) else b]

    def combine(self, operands: Sequence[tuple[Value, Sequence[Tensor]]], shape: Sequence[int], reason: str) -> Value:
        """Return the labels of an element-by-element operation; each operand's layers have the result's dimensions."""
        merged: list[tuple[Tensor, bool]] = []
        operands = [o for o in operands if not o[0].uniform] or operands
        full = [[d + len(shape) - len(v.shape) for d, n in enumerate(v.shape) if n > 1] for v, _ in operands]
        for i, (value, layers) in enumerate(operands):
            for layer in layers:
                whole: Tensor | None = layer
                for j, (_, others) in enumerate(operands):
                    if i != j and whole is not None:
                        labelled = {d for other in others for d in varying(other)}
                        bare = [d for d in full[j] if d not in labelled]
                        whole = self.pin(whole, bare, reason)
                if whole is None:
                    continue
                ahead, constant = [whole], value.constant
                for other, shared in list(merged):
                    if ahead and set(varying(ahead[0])) & set(varying(other)):
                        merged = [m for m in merged if m[0] is not other]
                        ahead = self.merge(other, ahead[0], shared, constant, reason)
                        constant = constant and shared
                merged += [(layer, constant) for layer in ahead]
        return Value(tuple(shape), [layer for layer, _ in merged], all(v.constant for v, _ in operands))

    # -- what follows ------------------------------------------------------------------------------------------

    def classes(self) -> np.ndarray:
        """Return, for each atom, the first atom of those that live and die together with it."""
        classes = _components(np.arange(self.count), self._pairs)
        while True:
            more = [pair for slab in self._slabs for pair in _slab(slab, classes)]
            more += [pair for parts in self._parts for pair in _balanced(parts, classes)]
            if not more:
                return classes
            classes = _components(classes, [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in more])

    def frozen(self, classes: np.ndarray) -> dict[int, str]:
        """Return class -> why it cannot leave."""
        reasons: dict[int, str] = {int(classes[OUTSIDE]): "it meets what cannot leave (padding or a constant)"}
        for layer, reason in self._frozen:
            for c in np.unique(classes[layer.numpy()]):
                reasons.setdefault(int(c), reason)
        return reasons


def _components(parent: np.ndarray, pairs: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Join the classes of each pair; the smallest atom names a class."""
    if not pairs:
        return parent
    parent = parent.copy()
    a = np.concatenate([p.numpy() for p, _ in pairs])
    b = np.concatenate([p.numpy() for _, p in pairs])
    while True:
        pa, pb = parent[a], parent[b]
        differ = pa != pb
        if not differ.any():
            return parent
        a, b, pa, pb = a[differ], b[differ], pa[differ], pb[differ]
        np.minimum.at(parent, np.maximum(pa, pb), np.minimum(pa, pb))
        while True:
            up = parent[parent]
            if (up == parent).all():
                break
            parent = up


def _slab(layer: Tensor, classes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs that make every class whole slabs along one dimension; none if they are."""
    ids = classes[layer.numpy()]
    dims = varying(layer)
    pairs = []
    for dim in sorted(dims, key=lambda d: -ids.shape[d]):
        first = ids
        for other in dims:
            if other != dim:
                first = first.take([0], axis=other)
        full = np.broadcast_to(first, ids.shape)
        if (full == ids).all():
            return []
        if not pairs:
            pairs = [(full.reshape(-1).copy(), ids.reshape(-1).copy())]
    return pairs


def _balanced(parts: Sequence[Tensor], classes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs that make every class take as much of each part; none if it does."""
    ids = [classes[p.numpy()] for p in parts]
    counts = [np.unique(i, return_counts=True) for i in ids]
    if all(np.array_equal(u, counts[0][0]) and np.array_equal(n, counts[0][1]) for u, n in counts):
        return []
    return [(ids[0].copy(), other.copy()) for other in ids[1:]]
