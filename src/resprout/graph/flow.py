"""The flow of a forward pass: which operation reads the results of which, and what is left if one sum loses an addend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .families import MOVES, SAME
from .tape import Record, Tape, tensors_of

# Sums of products -> the places of their two factors, and of what is added to it.
PRODUCTS: dict[str, tuple[int, int, int | None]] = {
    "mm": (0, 1, None), "bmm": (0, 1, None), "mul": (0, 1, None), "mv": (0, 1, None), "dot": (0, 1, None),
    "matmul": (0, 1, None), "linear": (0, 1, 2), "addmm": (1, 2, 0), "baddbmm": (1, 2, 0), "addmv": (1, 2, 0),
    "convolution": (0, 1, 2), "_convolution": (0, 1, 2), "conv1d": (0, 1, 2), "conv2d": (0, 1, 2), "conv3d": (0, 1, 2),
}  # fmt: skip


@dataclass
class Node:
    """One operation: the nodes that it reads (a network's input is negative), and the parameters and buffers."""

    row: Record
    reads: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    places: dict[int, int | str | None] = field(default_factory=dict)  # argument -> node, parameter, or a constant


@dataclass(frozen=True)
class Sum:
    """An addition of two tensors of one shape: its node, that of what passes by, and that of the branch."""

    node: int
    by: int
    branch: int


class Flow:
    """The operations of a tape as a graph. Results that are written into later are new results from then on."""

    def __init__(self, tape: Tape):
        self.nodes: list[Node] = []
        self.calls = tape.calls
        self.names = {i: name for i, (name, _) in tape.tensors.items()}
        self._last: dict[int, int] = {id(t): -1 - i for i, t in enumerate(tape.inputs)}
        self._views: defaultdict[int, set[int]] = defaultdict(set)
        for row in tape.records:
            self._add(row)
        self.outputs = {self._last[id(t)] for t in tensors_of(tape.output) if id(t) in self._last}
        self.moved = self._depend()

    def _add(self, row: Record) -> None:
        at, node = len(self.nodes), Node(row)
        for place, arg in enumerate((*row.args, *row.kwargs.values())):
            for tensor in tensors_of(arg):
                found = self._last.get(id(tensor), self.names.get(id(tensor)))
                if isinstance(found, int):
                    node.reads.add(found)
                elif found is not None:
                    node.names.add(found)
                if isinstance(arg, Tensor):
                    node.places[place] = found
        self.nodes.append(node)
        for tensor in _written(row):  # and whatever shares its memory
            for other in self._views[_whole(tensor)] | {id(tensor), _whole(tensor)}:
                if other in self._last:
                    node.reads.add(self._last[other])
                self._last[other] = at
        for tensor in tensors_of(row.out):
            self._last[id(tensor)] = at
            self._views[_whole(tensor)].add(id(tensor))

    def _depend(self) -> list[bool]:
        """Whether each operation's result depends on the network's inputs."""
        found: list[bool] = []
        for node in self.nodes:
            found.append(any(r < 0 or found[r] for r in node.reads))
        return found

    def behind(self, ends: Iterable[int], without: Set[int] = frozenset(), cut: Sum | None = None) -> set[int]:
        """Return all that `ends` need: nodes, and inputs as negative numbers; not beyond `without`, nor a sum's branch."""
        found: set[int] = set()
        todo = [n for n in ends if n not in without]
        while todo:
            at = todo.pop()
            if at in found:
                continue
            found.add(at)
            if at >= 0:
                reads = self.nodes[at].reads
                if cut is not None and at == cut.node:
                    reads = reads - {cut.branch}
                todo += [r for r in reads if r not in without and r not in found]
        return found

    def sums(self) -> list[Sum]:
        """Return the residual sums, in order: what passes by goes into the branch too."""
        pairs: dict[int, tuple[int, int]] = {}
        found = []
        for at, node in enumerate(self.nodes):
            if _name(node.row) != "add" or len(node.row.args) < 2:
                continue
            a, b = node.places.get(0), node.places.get(1)
            shapes = {tuple(t.shape) for t in (*node.row.args[:2], node.row.out) if isinstance(t, Tensor)}
            if not (isinstance(a, int) and isinstance(b, int)) or a == b or len(shapes) > 1:
                continue
            pairs[at] = a, b
            for by, branch in ((a, b), (b, a)):
                # Of branches beside each other, x + f(x) + g(x), the second meets a sum that x is in.
                if branch >= 0 and {by, *pairs.get(by, ())} & self.behind([branch]) - {branch}:
                    found.append(Sum(at, by, branch))
                    break
        return found

    def constant(self, branch: int, own: Set[int], dead: Set[str]) -> bool:
        """Whether what the nodes `own` give to `branch` no longer depends on anything, if the weights `dead` are zeros."""
        zero: set[int | str] = set(dead)
        live: set[int] = set()

        def worst(sources: Iterable[int | str | None]) -> str:
            kinds = [
                "zero" if s in zero
                else "live" if isinstance(s, int) and (s in live or s < 0 or (s not in own and self.moved[s]))
                else "constant"
                for s in sources
            ]  # fmt: skip
            return next((k for k in ("live", "constant", "zero") if k in kinds), "constant")

        for at in sorted(own):
            node, name = self.nodes[at], _name(self.nodes[at].row)
            result = worst([*node.reads, *node.names])
            if name in PRODUCTS:
                *factors, added = PRODUCTS[name]
                if any(node.places.get(f) in zero for f in factors):
                    bias = None if added is None else node.places.get(added)
                    result = "zero" if bias is None else worst([bias])
            elif result == "zero" and name not in MOVES | SAME:
                result = "constant"
            if result == "zero":
                zero.add(at)
            elif result == "live":
                live.add(at)
        return branch not in live


def _name(row: Record) -> str:
    """The operation's name, in place or not."""
    name = row.func._schema.name.partition("::")[2]
    return name.removesuffix("_") if not name.startswith("__") else name


def _written(row: Record) -> list[Tensor]:
    """The tensors that an operation writes into."""
    if not row.func._schema.is_mutable:
        return []
    named = [a for a in row.func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    places = {a.name: i for i, a in enumerate(row.func._schema.arguments)}
    given: list[Any] = [
        row.args[places[a.name]] if places[a.name] < len(row.args) else row.kwargs.get(a.name) for a in named
    ]
    return [t for arg in given for t in tensors_of(arg)]


def _whole(tensor: Tensor) -> int:
    """The tensor that this one is a view of, or itself."""
    return id(tensor if tensor._base is None else tensor._base)


__all__ = ["Flow", "Node", "Sum"]
