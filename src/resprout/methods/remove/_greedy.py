"""Units taken out on trial: what the network loses without them, and the least of it chosen again and again.

What depth and width pruning of language models share: Zhang, Lu, Wang, Chen, Ding, Xia: "FinerCut", arXiv:2405.18218; Zhong,
Wan, Chen, Quan, Li: "BlockPruner", arXiv:2406.10594.

A trial multiplies the weights by the masks that the removal would give, on top of what is gone; the network itself is not
touched. Blocks below the lowest one that a trial changes put out what they did, so they are run once for all trials of a batch.
What this file does not do: rank units by a score (see `score/`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.blocks import find_blocks
from ...core.budget import Budget
from ...core.errors import ResproutError
from ...core.masks import Masks
from ...core.modes import evaluating
from ...core.outputs import outputs
from ...core.probe import Tensors, share
from ...core.run import Run
from ...core.units import Group, living, spread
from ...numerics import distance

Measure = Literal["loss", "kl", "js", "angular", "euclidean"]
ALIKE = 1e-6  # of the loss: blocks are run once only where that gives the same


@dataclass(frozen=True, eq=False)
class Candidate:
    """Units that leave together: group -> int64 (units,)."""

    name: str
    units: Mapping[str, Tensor]


def merged(name: str, parts: Sequence[Candidate]) -> Candidate:
    """Return the units of all parts as one candidate."""
    units: dict[str, list[Tensor]] = {}
    for part in parts:
        for group, index in part.units.items():
            units.setdefault(group, []).append(index)
    return Candidate(name, {group: torch.cat(index) for group, index in units.items()})


def layers(run: Run) -> list[Candidate]:
    """Return the whole layers (residual branches) that live, one by one, in the network's order.

    Raises:
        ResproutError: no layers are known.
    """
    found = [g for g in run.groups if g.kind == "layer"]
    if not found:
        raise ResproutError(
            "no whole layers are known: use granularity='layer', or pass groups of rs.trace(model, x, layers=True)"
        )
    alive = living(found, run.masks)
    return [Candidate(g.name, {g.name: torch.zeros(1, dtype=torch.int64)}) for g in found if bool(alive[g.name])]


def blocks(run: Run) -> list[Candidate]:
    """Return the blocks that live, each with all its layers, from the first to the last; its name is its path.

    Raises:
        ResproutError: no blocks, or one with weights in no layer, which cannot leave whole.
    """
    path, found = find_blocks(run.model), {c.name: c for c in layers(run)}
    own = {g.name: {s.parameter for s in g.slots} for g in run.groups if g.kind == "layer"}
    made = []
    for i in range(len(run.model.get_submodule(path))):  # pyright: ignore[reportArgumentType]
        start = f"{path}.{i}."
        members = [n for n, names in own.items() if all(p.startswith(start) for p in names)]
        left = {n for n in run.masks if n.startswith(start)} - {p for n in members for p in own[n]}
        if left:
            raise ResproutError(
                f"{path}.{i} cannot leave whole: {min(left)} is in no layer that can; see `resprout inspect`"
            )
        if any(n in found for n in members):
            made.append(merged(f"{path}.{i}", [found[n] for n in members if n in found]))
    return made


def inner(run: Run, kind: str) -> list[tuple[Group, Group]]:
    """Return the groups of a kind whose units lie within one whole layer, with that layer."""
    own = {g.name: (g, {s.parameter for s in g.slots}) for g in run.groups if g.kind == "layer"}
    pairs = [(g, {s.parameter for s in g.slots}) for g in run.groups if g.kind == kind]
    return [(g, layer) for g, names in pairs for layer, around in own.values() if names <= around]


def without(masks: Masks, groups: Sequence[Group], gone: Candidate) -> dict[str, Tensor]:
    """Return the masks that change when a candidate leaves, as they are then."""
    parts = [g for g in groups if g.name in gone.units]
    alive = {g.name: torch.ones(len(g), dtype=torch.bool).index_fill_(0, gone.units[g.name], False) for g in parts}
    names = {s.parameter for g in parts for s in g.slots if s.parameter in masks}
    found = spread(parts, alive, {n: masks[n].shape for n in masks if n in names})
    return {n: masks[n] & m.to(masks[n].device) for n, m in found.items()}


def left(masks: Masks, groups: Sequence[Group], gone: Candidate) -> Masks:
    """Return all masks as they are when a candidate has left."""
    return Masks(dict(masks) | without(masks, groups, gone))


def attainable(run: Run, budget: Budget, candidates: Sequence[Candidate]) -> None:
    """Check that the budget is met when all candidates have left.

    Raises:
        BudgetError: it is not; the message says how near one gets.
    """
    budget.check(run.model, left(run.masks, run.groups, merged("all", candidates)))


class Trials:
    """What a run's network is worth without candidates: tried, and taken out.

    Args:
        run: its probe's batches are looked at.
        measure: "loss" is the task's (of language models log perplexity); else the distance from the dense network, of logits
            ("kl", "js") or of what the last block puts out ("angular", "euclidean"). Dense is the point "dense", or else the
            network as it stands. Its outputs for all batches are kept in memory.
        batches: look at so many only.
        cached: run the blocks below a change once for all trials, where that gives the same loss.
    """

    def __init__(self, run: Run, measure: Measure = "loss", batches: int | None = None, cached: bool = True):
        self.run, self.probe = run, run.probe()
        self.measure: Measure = measure
        self.data = self.probe.data()[:batches]
        self.tried = 0  # candidates
        path = self._path()
        self.blocks: list[nn.Module] = [] if path is None else list(run.model.get_submodule(path).children())
        self._starts = [] if path is None else [f"{path}.{i}." for i in range(len(self.blocks))]
        if measure in ("angular", "euclidean") and path is None:
            raise ResproutError(f"measure={measure!r} compares what the last block puts out, and there are no blocks")
        self._where = "" if measure in ("loss", "kl", "js") else f"{path}.{len(self.blocks) - 1}"
        state = {} if run.anchor is None else run.tensors_at("dense")
        own = {n: state[n] for n, _ in run.model.named_parameters() if n in state}
        self.cached = False
        with self._still():
            self._reference = [] if measure == "loss" else [self._outputs(b, own) for b in self.data]
            self.cached = cached and len(self.blocks) > 1 and self._alike()

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return for each candidate the measure of the network without it and without what has left already."""
        run, total = self.run, torch.zeros(len(candidates), dtype=torch.float64)
        masks = [without(run.masks, run.groups, c) for c in candidates]
        lowest = [self._lowest(m) for m in masks]
        params = run.weights()
        with self._still():
            for at, batch in enumerate(self.data):
                kept, done = None, 0
                for i in sorted(range(len(candidates)), key=lowest.__getitem__):
                    if lowest[i] > done:
                        kept, done = self._advanced(batch, kept, done, lowest[i]), lowest[i]
                    weights = {n: params[n].detach() * m for n, m in masks[i].items()}
                    total[i] += self._value(at, weights, done, kept)
        self.tried += len(candidates)
        return share(total / len(self.data)).tolist()

    def remove(self, candidate: Candidate) -> None:
        """Take a candidate out of the network."""
        self.run.set_masks(left(self.run.masks, self.run.groups, candidate))

    def findings(self, **more: Any) -> dict[str, Any]:
        """Return what all removers say: the measure, and how many candidates were tried, and whether blocks were run once."""
        return {"measure": self.measure, "tried": self.tried, "cached": self.cached} | more

    def _path(self) -> str | None:
        """The list of blocks, if there is one of distinct modules."""
        try:
            path = find_blocks(self.run.model)
        except ResproutError:
            return None
        modules: Any = self.run.model.get_submodule(path)
        return path if len({id(m) for m in modules}) == len(modules) else None

    def _lowest(self, changed: Mapping[str, Tensor]) -> int:
        """The first block that changes; 0 where that is not known, or does not count."""
        if not self.cached:
            return 0
        at = [next((i for i, s in enumerate(self._starts) if name.startswith(s)), 0) for name in changed]
        return min(at, default=0)

    def _value(self, at: int, weights: Tensors, skip: int = 0, kept: Any = None) -> float:
        """The measure on one batch; the first `skip` blocks have put out `kept`."""
        measure = self.measure
        with _instead(self.blocks[:skip], lambda *args, **kwargs: kept):
            if measure == "loss":
                return float(self.probe.loss(self.data[at], weights))
            return float(distance.distance(measure, self._reference[at], self._outputs(self.data[at], weights)))

    def _outputs(self, batch: Any, weights: Tensors) -> Tensor:
        with outputs(self.run.model, [self._where]) as found:
            self.probe.loss(batch, weights)
        return found[self._where]

    def _advanced(self, batch: Any, kept: Any, done: int, to: int) -> Any:
        """What block `to - 1` puts out, when the first `done` blocks have put out `kept`."""

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise _Enough

        found: list[Any] = []
        handle = self.blocks[to - 1].register_forward_hook(lambda module, args, out: found.append(out))
        try:
            with _instead(self.blocks[:done], lambda *args, **kwargs: kept), _instead(self.blocks[to : to + 1], stop):
                self.probe.loss(batch)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[-1]

    def _alike(self) -> bool:
        """Whether the last block's inputs are all that the rest of the network needs of the blocks before it."""
        last, whole = len(self.blocks) - 1, float(self.probe.loss(self.data[0]))
        try:
            kept = self._advanced(self.data[0], None, 0, last)
            with _instead(self.blocks[:last], lambda *args, **kwargs: kept):
                part = float(self.probe.loss(self.data[0]))
        except (ResproutError, IndexError):  # blocks that are not called, or not one after the other
            return False
        return abs(part - whole) <= ALIKE * abs(whole)

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Evaluation mode, no gradients, and no trace in the mode or the random state."""
        with evaluating(self.run.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield


class _Enough(Exception):
    """The blocks that were asked for have run."""


@contextlib.contextmanager
def _instead(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let `forward` answer in place of modules."""
    own = [m.__dict__.get("forward") for m in modules]
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            del module.forward
            if before is not None:
                module.forward = before


def greedy(
    trials: Trials, queues: Sequence[Sequence[Candidate]], done: Callable[[], bool], every: int = 1
) -> list[dict[str, Any]]:
    """Take out the candidate that costs least, again and again, until `done()` or none is left; return what left, in order.

    Args:
        trials: tries them.
        queues: of each, only the first that has not left is a candidate.
        done: asked before each removal.
        every: take out so many of the best before all are tried again.
    """
    rest, removed = [list(q) for q in queues if q], []
    while rest and not done():
        values = trials([q[0] for q in rest])
        for place, i in enumerate(sorted(range(len(rest)), key=values.__getitem__)[:every]):
            if place and done():
                break
            trials.remove(rest[i][0])
            removed.append({"unit": rest[i].pop(0).name, trials.measure: values[i]})
            steps = len(removed) + sum(map(len, rest))
            trials.run.report("search", {"step": len(removed), "steps": steps, "unit": removed[-1]["unit"]})
        rest = [q for q in rest if q]
    return removed


def shortest(run: Run, budget: Budget, stack: Sequence[Candidate]) -> tuple[int, dict[int, Candidate]]:
    """Return the fewest consecutive candidates that meet the budget, and those runs of so many that do, by the first's place.

    Raises:
        BudgetError: not even all of them do.
    """

    def met(gone: Candidate) -> bool:
        return budget.met(budget.cost(run.model, left(run.masks, run.groups, gone)))

    if budget.met(budget.cost(run.model, run.masks)):
        return 0, {}
    attainable(run, budget, stack)
    sizes = [run.masks.alive - left(run.masks, run.groups, c).alive for c in stack]
    for n in range(1, len(stack) + 1):
        found = [merged(_span(stack[i : i + n]), stack[i : i + n]) for i in range(len(stack) - n + 1)]
        largest = max(range(len(found)), key=lambda i: sum(sizes[i : i + n]))
        if met(found[largest]):
            return n, {i: c for i, c in enumerate(found) if met(c)}
    return 0, {}


def _span(stack: Sequence[Candidate]) -> str:
    return stack[0].name if len(stack) == 1 else f"{stack[0].name} to {stack[-1].name}"
