"""Whole layers: residual branches f in x + f(x), each of which can leave the network and come back.

A branch is what nothing but one addend of a sum needs. It can leave if it owns weights to prune, and adds no more than a
constant once they are zeros. What cannot leave is listed by name and reason.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.hold import unwrap
from ..core.masks import prunable
from ..core.units import Group, Slot
from .alike import CLOSE, difference, outputs
from .flow import Flow, Sum
from .shape import place
from .skip import Branch, Pass, kind_of, stand_in, tensors_in
from .structure import Structure
from .tape import record


@dataclass(frozen=True)
class _Found:
    """A branch on the tape: its sum, its own operations, the parameters and buffers that it owns."""

    sum: Sum
    own: frozenset[int]
    names: tuple[str, ...]


def with_layers(model: nn.Module, structure: Structure, example: Any) -> Structure:
    """Return the structure with a group of one unit for each residual branch that can leave; the model is left as it is.

    Every branch is taken out on trial.

    Args:
        model: the network.
        structure: its channels and heads.
        example: what the model can be called with.

    Raises:
        TraceError: the model cannot take the example.
    """
    bare = unwrap(model)
    flow = Flow(record(bare, example))
    weights = frozenset(prunable(bare))
    planned = _innermost([(one, _plan(one, flow, bare, weights)) for one in _branches(flow, bare)])
    names = _names([[n for n in one.names if n in weights] or one.names for one, _ in planned])
    plans = {name: plan for name, (_, plan) in zip(names, planned, strict=True)}
    kept = {name: plan for name, plan in plans.items() if isinstance(plan, str)}
    fine = [replace(plan, name=name) for name, plan in plans.items() if isinstance(plan, Branch)]
    layers, failed = _tried(bare, fine, example)
    kept |= failed
    tensors = {**dict(bare.named_parameters()), **dict(bare.named_buffers())}
    owned = {name: one.names for name, (one, _) in zip(names, planned, strict=True)}
    groups = [_group(b.name, owned[b.name], tensors) for b in layers]
    others = tuple(g for g in structure.groups if g.kind != "layer")
    return replace(structure, groups=(*others, *groups), layers=tuple(layers), kept_layers=kept, example=example)


def _group(name: str, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Group:
    """The one unit of a branch: all rows of all that it owns."""
    whole = [(n, tensors[n]) for n in names if tensors[n].dim() > 0 and tensors[n].is_floating_point()]
    return Group(name, "layer", tuple(Slot(n, 0, torch.arange(len(t))[None]) for n, t in whole))


# -- finding ---------------------------------------------------------------------------------------------------


def _branches(flow: Flow, model: nn.Module) -> Iterator[_Found]:
    """Yield the branches that own parameters."""
    parameters = set(dict(model.named_parameters()))
    needed = flow.behind(flow.outputs)
    for one in flow.sums():
        if one.node not in needed:
            continue
        rest = flow.behind(flow.outputs, cut=one)
        own = frozenset(n for n in flow.behind([one.branch]) - rest if n >= 0)
        others = {name for n in rest if n >= 0 for name in flow.nodes[n].names}
        names = {name: None for n in sorted(own) for name in sorted(flow.nodes[n].names) if name not in others}
        if names.keys() & parameters:
            yield _Found(one, own, tuple(names))


def _innermost(planned: Sequence[tuple[_Found, Branch | str]]) -> list[tuple[_Found, Branch | str]]:
    """Of branches within each other choose the smallest that can leave, else the smallest; in the order they run."""
    chosen: list[tuple[_Found, Branch | str]] = []
    taken: set[int] = set()
    for one, plan in sorted(planned, key=lambda p: (isinstance(p[1], str), len(p[0].own))):
        if not one.own & taken:
            taken |= one.own
            chosen.append((one, plan))
    return sorted(chosen, key=lambda p: min(p[0].own))


def _names(owned: Sequence[Sequence[str]]) -> list[str]:
    """Name each branch by the module that all it owns is in, or, where others are in there too, by its parts."""
    paths = [[n.rpartition(".")[0].split(".") for n in names] for names in owned]
    stems = [_common(p) for p in paths]
    names = []
    for i, (stem, parts) in enumerate(zip(stems, paths, strict=True)):
        if stem and not any(s[: len(stem)] == stem for j, s in enumerate(stems) if j != i):
            names.append(".".join(stem))
        else:
            ends = dict.fromkeys(p[len(stem)] for p in parts if len(p) > len(stem))
            names.append(".".join([*stem, "+".join(ends)]))
    return [n if names.index(n) == i else f"{n}#{names[:i].count(n) + 1}" for i, n in enumerate(names)]


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    stem = list(paths[0])
    for path in paths[1:]:
        same = next((i for i, (a, b) in enumerate(zip(stem, path, strict=False)) if a != b), min(len(stem), len(path)))
        stem = stem[:same]
    return stem


# -- planning --------------------------------------------------------------------------------------------------


def _plan(found: _Found, flow: Flow, model: nn.Module, prunes: Collection[str]) -> Branch | str:
    """Return which modules leave with a branch (which has no name yet), or why it cannot."""
    weights = tuple(n for n in found.names if n in prunes)
    if not weights:
        return "none of its weights can be pruned"
    if not flow.constant(found.sum.branch, found.own, set(weights)):
        return "it adds more than a constant without its weights"
    rest = flow.behind(flow.outputs, cut=found.sum)
    inside = _inside(flow, rest, found.own)
    parents = {n.rpartition(".")[0] for n in found.names}
    own = [p for p in inside if any(_within(n, p) for n in parents)]
    if loose := [n for n in weights if not any(_within(n, p) for p in own)]:
        return f"{loose[0]!r} is used outside of the modules that leave with it"
    ends = [p for p in own if not any(n < 0 for n in flow.behind([found.sum.branch], without=inside[p]))]
    if not ends:
        return "no module is its end: what it adds comes from several"
    before = list(inside)[: list(inside).index(ends[-1])]
    if late := [n for n in weights if not any(_within(n, p) for p in [*before, ends[-1]])]:
        return f"{late[0]!r} is used beside its end, {ends[-1]!r}"
    biases = {n for n, p in model.named_parameters() if p.dim() == 1 and n.rpartition(".")[2] == "bias"}
    added = [n for at in sorted(inside[ends[-1]]) for n in sorted(flow.nodes[at].names & biases)]
    return Branch("", weights, ends[-1], tuple(before), added[-1].removeprefix(f"{ends[-1]}.") if added else "")


def _inside(flow: Flow, rest: set[int], own: frozenset[int]) -> dict[str, set[int]]:
    """Return the outermost modules that run once, for the branch alone, in that order -> their operations."""
    nodes: dict[str, set[int]] = {}
    for at, node in enumerate(flow.nodes):
        parts = node.row.module.split(".") if node.row.module else []
        for i in range(1, len(parts) + 1):
            nodes.setdefault(".".join(parts[:i]), set()).add(at)
    fit = {p for p, mine in nodes.items() if mine & own and not mine & rest and flow.calls[p] == 1}
    outer = [p for p in fit if not any(p.startswith(f"{q}.") for q in fit)]
    return {p: nodes[p] for p in sorted(outer, key=lambda p: min(nodes[p] & own))}


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


# -- taking out ------------------------------------------------------------------------------------------------


def without(model: nn.Module, layers: Sequence[Branch], example: Any) -> dict[str, str]:
    """Take branches out of `model`, in place, whose weights are zeros in it; return module -> what stands in its place.

    Raises:
        ResproutError: the model computes something else afterwards, or fails; then it is as it was.
    """
    wished, seen = _watched(model, [p for b in layers for p in (*b.passes, b.end)], example)
    ends = {b.end: b.bias for b in layers}
    why = ""
    for faithful in (False, True):  # where code counts on the width between two modules
        found = {p: _stand_in(model.get_submodule(p), runs, ends.get(p), faithful, p) for p, runs in seen.items()}
        before = {path: model.get_submodule(path) for path in found}
        for path, new in found.items():
            place(model, path, new)
        try:
            if (gap := difference(wished, outputs(model, example))) <= CLOSE:
                return {path: kind_of(new) for path, new in found.items()}
            why = f"without it the model computes something else (by {gap:.1e} of its output)"
        except Exception as error:  # of any kind, for it runs the model's own code
            why = f"without it the model fails: {str(error).strip().partition(chr(10))[0]}"
        for path, old in before.items():
            place(model, path, old)
    raise ResproutError(f"{', '.join(b.name for b in layers)} cannot leave: {why}")


def _watched(
    model: nn.Module, paths: Sequence[str], example: Any
) -> tuple[list[Tensor], dict[str, list[tuple[Tensor | None, Any]]]]:
    """Return the model's outputs, and module -> what it is given and returns, for each time that it runs."""
    seen: dict[str, list[tuple[Tensor | None, Any]]] = {p: [] for p in paths}

    def watch(path: str) -> Any:
        def keep(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            seen[path].append((next(tensors_in(args, kwargs), None), _copied(out)))

        return model.get_submodule(path).register_forward_hook(keep, with_kwargs=True)

    hooks = [watch(p) for p in seen]
    try:
        return outputs(model, example), seen
    finally:
        for hook in hooks:
            hook.remove()


def _copied(out: Any) -> Any:
    """What a module returns, safe from what is written into it later: `out += x`."""
    first = out[0] if isinstance(out, tuple) and out else out
    first = first.detach().clone() if isinstance(first, Tensor) else first
    return (first, *out[1:]) if isinstance(out, tuple) and out else first


def _stand_in(
    module: nn.Module, runs: list[tuple[Tensor | None, Any]], end: str | None, faithful: bool, path: str
) -> Pass:
    """Return what stands for a module, by what it is given and returns.

    Args:
        module: it.
        runs: what it is given and returns, each time that it runs.
        end: the bias of the branch's end, which gives the constant; None: it is not the end, and what it is given passes.
        faithful: but if it returns a constant of another width, then that.
        path: where it is.

    Raises:
        ResproutError: it runs more than once, is given or returns no tensor, or is the end and no constant.
    """
    if len(runs) != 1:
        raise ResproutError(f"{path!r} runs {len(runs)} times")
    (x, value), several = runs[0], ""
    if isinstance(value, tuple):
        value, several = value[0] if value else None, f":{len(value)}"
    if x is None or not isinstance(value, Tensor):
        raise ResproutError(f"{path!r} {'is given no tensor' if x is None else 'returns no tensor first'}")
    constant = _constant(value, x) if end is not None or (faithful and value.shape != x.shape) else None
    if end is not None and constant is None:
        raise ResproutError(f"{path!r} gives no constant per channel without its weights")
    if constant is None:
        return stand_in(module, f"pass{several}")
    numbers, dim = constant
    made: Any = stand_in(module, f"end:{len(numbers)}:{dim}{several}" + (f"@{end}" if end else ""))
    made.constant = numbers.to(made.constant)
    return made


def _constant(y: Tensor, x: Tensor) -> tuple[Tensor, int] | None:
    """Return the numbers that `y` repeats, one for each channel, and the channels' dimension, from the end; None: it does not.

    Where it is one number alone, that will do if `y` is of the shape of `x`, which it was made of.
    """
    close = 1e-6 * max(float(y.abs().max()), 1e-6) if y.numel() else 0.0
    changed = [d for d in range(y.dim()) if y.dim() == x.dim() and y.shape[d] != x.shape[d]]
    choices = [changed] if len(changed) == 1 else [[], *([d] for d in range(y.dim() - 1, 0, -1))]
    for dims in choices:
        first = y
        for d in range(y.dim()):
            first = first if d in dims else first.narrow(d, 0, 1)
        if float((y - first).abs().max()) <= close:
            return first.flatten().clone(), dims[0] - y.dim() if dims else -1
    return None


# -- trial -----------------------------------------------------------------------------------------------------


def _tried(model: nn.Module, layers: list[Branch], example: Any) -> tuple[list[Branch], dict[str, str]]:
    """Return the branches that can leave, and branch -> why not of the others.

    They are taken out together and every other one, and, where that fails, each: with all its modules, or with those alone that
    own weights to prune, for a model's code may look at attributes of others.
    """
    if not _together(model, layers, example):
        return layers, {}
    fine, failed = [], {}
    for branch in layers:
        lean = replace(branch, passes=tuple(p for p in branch.passes if any(_within(n, p) for n in branch.weights)))
        reasons = [_fails(model, [b], example) for b in (branch, lean)]
        if all(reasons):
            failed[branch.name] = reasons[0]
        else:
            fine.append(lean if reasons[0] else branch)
    if why := _together(model, fine, example):
        return [], failed | {b.name: f"together with others: {why}" for b in fine}
    return fine, failed


def _together(model: nn.Module, layers: list[Branch], example: Any) -> str:
    """Why all of these, or every other one, cannot leave; or nothing."""
    parts = [part for part in (layers, layers[::2], layers[1::2]) if part]
    return next(filter(None, (_fails(model, part, example) for part in parts)), "")


def _fails(model: nn.Module, layers: Sequence[Branch], example: Any) -> str:
    """Why the model without these branches does not compute what it does with their weights zero; or nothing."""
    twin = copy.deepcopy(model)
    weights = dict(twin.named_parameters())
    with torch.no_grad():
        for name in (n for b in layers for n in b.weights):
            weights[name].zero_()
    try:
        without(twin, layers, example)
    except ResproutError as error:
        return str(error)
    return ""


__all__ = ["with_layers", "without"]
