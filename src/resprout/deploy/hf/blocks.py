"""Whole blocks that have left: fewer of them, numbered anew, which a configuration can say."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn

from ...graph.shape import Shape
from .net import Net, build

T = TypeVar("T")
FIELDS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layers")
Kept = dict[str, list[int]]  # list of blocks -> the numbers, in the dense network, of those that are left


def renumbered(net: Net) -> tuple[Net, Kept]:
    """Return the network with fewer blocks where all that was in a block has left, and which are left.

    What such a block still adds (its biases) goes into the last one before it that has a bias to take it. Where there is none,
    and where the configuration cannot say how many blocks there are, they stay, as branches that have left.
    """
    kept: Kept = {}
    if not net.shape.skipped or getattr(net.config, "is_encoder_decoder", False):  # T5's cache counts on equal numbers
        return net, kept
    lists = {p: len(m) for p, m in build(net.cls, net.config).named_modules() if isinstance(m, nn.ModuleList)}
    for path, count in lists.items():
        gone = [i for i in range(count) if _is_gone(net, f"{path}.{i}.")]
        state = dict(net.state)
        gone = [i for i in gone if _given_away(state, net.shape, path, i, gone)]
        left = [i for i in range(count) if i not in gone]
        config = _fewer(net, path, left, lists) if gone and left else None
        if config is not None:
            kept[path] = left
            net = _renamed(replace(net, config=config, state=state), path, left)
    return net, kept


def _is_gone(net: Net, prefix: str) -> bool:
    inside = [n for n in net.state if n.startswith(prefix)]
    skipped = [p for p in net.shape.skipped if p.startswith(prefix)]
    return bool(skipped) and all(any(n == f"{p}.constant" for p in skipped) for n in inside)


def _given_away(state: dict[str, Tensor], shape: Shape, path: str, block: int, gone: list[int]) -> bool:
    """Give what a block adds to one before it, in `state`; whether that could be done."""
    prefix = f"{path}.{block}."
    ends = {p.removeprefix(prefix): kind for p, kind in shape.skipped.items() if p.startswith(prefix) and "end" in kind}
    given = [state[f"{prefix}{end}.constant"] for end in ends]
    if not any(bool(t.any()) for t in given):
        return True
    before = max((j for j in range(block) if j not in gone), default=None)
    last, kind = list(ends.items())[-1]  # nothing of its block runs after it, and sees what is added here
    names = [f"{path}.{before}.{last}.{leaf}" for leaf in (kind.partition("@")[2], "constant")]
    into = next((n for n in names if n in state), None)
    if into is None or any(t.numel() not in (1, state[into].numel()) for t in given):
        return False
    state[into] = state[into] + sum(given)
    return True


def _fewer(net: Net, path: str, left: list[int], lists: Mapping[str, int]) -> Any:
    """Return the configuration with the blocks `left` of `path`, or None if it cannot say so."""
    count = lists[path]
    for name in FIELDS:
        if getattr(net.config, name, None) != count:
            continue
        config = copy.deepcopy(net.config)
        for key, value in vars(
            net.config
        ).items():  # what it says of each block: which attend to all, which to a window
            if "layer" in key and isinstance(value, list | tuple) and len(value) == count:
                setattr(config, key, [value[i] for i in left])
        try:
            setattr(config, name, len(left))
            now = {p: len(m) for p, m in build(net.cls, config).named_modules() if isinstance(m, nn.ModuleList)}
        except Exception:  # of any kind, for it runs the model's own code
            continue
        if now == {p: n for p, n in {**lists, path: len(left)}.items() if p in now}:
            return config
    return None


def _renamed(net: Net, path: str, left: list[int]) -> Net:
    number = {old: new for new, old in enumerate(left)}
    pattern = re.compile(rf"{re.escape(path)}\.(\d+)(?=\.|$)")

    def rename(mapping: Mapping[str, T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for name, value in mapping.items():
            match = pattern.match(name)
            if match is None:
                found[name] = value
            elif int(match[1]) in number:
                found[f"{path}.{number[int(match[1])]}{name[match.end() :]}"] = value
        return found

    s = net.shape
    norms = list(rename(dict.fromkeys(s.norms, 0)))
    shape = Shape(rename(s.kept), rename(s.attributes), norms, rename(s.skipped))
    return replace(net, state=rename(net.state), shape=shape, norms=rename(net.norms))
