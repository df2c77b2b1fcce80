"""Prune a network block by block: scores of the block's weights and inputs, exact counts, and a solver for what stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import catalog
from ..core import granularity as granularities
from ..core import select
from ..core.choose import counted
from ..core.errors import ResproutError, check_sparsity
from ..core.hold import unwrap
from ..core.kinds import Allocation, Fidelity, Pick, Score, Scores, Solver
from ..core.masks import Masks, keep_count, prunable
from ..core.probe import Probe
from ..core.store import checksum
from ..numerics.curvature import grams
from .folder import Folder
from .sharded import Sharded, is_sharded
from .walk import Block, Forward, Shelf, find_blocks, trim, usual, walk

Report = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Cut:
    """What is done to each block.

    Attributes:
        score: what a weight is worth; with a solver and no score, the solver's own choice is taken.
        solver: new values for what stays; None leaves them as they are.
        granularity: within a tensor: weights, rows, or n:m.
    """

    score: Score | None
    solver: Solver | None
    granularity: granularities.Granularity

    def __post_init__(self) -> None:
        if self.score is None and self.solver is None:
            raise ResproutError("give score=, solver= or both: nothing else says which weights go")
        if isinstance(self.granularity, granularities.Units | granularities.Block):
            raise ResproutError(f"block by block weights are pruned, rows or n:m, and not {self.granularity.noun}")

    @classmethod
    def parse(
        cls, score: str | Score | None, solver: str | Solver | None, granularity: str | granularities.Granularity
    ) -> Cut:
        """Read names."""
        worth = None if score is None else catalog.make("score", score)
        return cls(worth, None if solver is None else catalog.make("solve", solver), granularities.parse(granularity))

    def __call__(self, block: Block, masks: Masks, counts: Mapping[str, int]) -> Masks:
        """Prune one block in place, and return its masks: exactly `counts` alive in each tensor.

        Args:
            block: with inputs.
            masks: of its own parameters, as they are.
            counts: alive afterwards, by its own names.

        Raises:
            ResproutError: more than are alive, or scores that are not finite.
        """
        probe = block.probe(masks)
        chosen = None if self.score is None else self._chosen(self.score(probe), self.score, masks, counts)
        weights = dict(block.module.named_parameters())
        with torch.no_grad():
            if self.solver is None:
                assert chosen is not None
                for name, mask in chosen.items():
                    weights[name].mul_(mask)
                return chosen
            return self._solved(self.solver, probe, weights, masks, counts, chosen)

    def _solved(
        self,
        solver: Solver,
        probe: Probe,
        weights: Mapping[str, nn.Parameter],
        masks: Masks,
        counts: Mapping[str, int],
        chosen: Masks | None,
    ) -> Masks:
        """Solve layer by layer; what several share of a Gram matrix is prepared once, and let go after the last of them."""
        found = grams(probe, list(masks))
        alike: dict[int, list[str]] = {}
        for name in found:
            alike.setdefault(id(found[name]), []).append(name)
        new = {}
        for names in alike.values():
            trim()
            prepared = solver.prepare(_single(found[names[0]], names[0]))
            for name in names:
                w, alive = weights[name], masks[name].flatten(1)
                fixed = None if chosen is None else Fixed(chosen[name].flatten(1))
                seen = Seen(fixed or self.granularity.pick(alive, counts[name]), alive)
                solved = solver(w.float().flatten(1), prepared, seen).reshape(w.shape)
                new[name] = torch.cat(seen.picked, 1).reshape(w.shape)
                w.copy_(solved.mul_(new[name]))
                del found[name], solved
            del prepared  # before the next Gram matrix is
        return Masks({n: new[n] for n in masks})

    def _chosen(self, found: Mapping[str, Any], score: Score, masks: Masks, counts: Mapping[str, int]) -> Masks:
        scores = Scores(found, None if masks.alive == masks.total else masks, None, score.order, score.rows)
        return self.granularity.choose(scores, sum(counts.values()), Given(tuple(counts.items())))


def prune_blocks(
    model: nn.Module,
    sparsity: float,
    *,
    data: Sequence[Any],
    score: str | Score | None = "wanda",
    solver: str | Solver | None = None,
    allocate: str | Allocation = "uniform",
    granularity: str | granularities.Granularity = "row",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    masks: Masks | None = None,
    blocks: str | None = None,
    forward: Forward = usual,
    device: str | torch.device | None = None,
    report: Report | None = None,
) -> Masks:
    """Prune the blocks of `model` one after another, each on what those before it, pruned already, make of the data.

    Only what stands in blocks is pruned: embeddings and the head stay as they are.

    Args:
        model: changed in place.
        sparsity: fraction of the prunable weights in blocks that is dead afterwards, in [0, 1].
        data: batches, see `forward`.
        score: what a weight is worth, by name or object; None lets the solver choose.
        solver: new values for what stays, by name or object, such as "sparsegpt".
        allocate: how many weights each tensor keeps. One that looks at scores gets them from a first walk through the network
            as it is ("uniform" does not).
        granularity: "row" (the same share of each output), "weight", or a pattern such as "2:4".
        targets, ignore: which parameters (see `masks.prunable`).
        masks: prune only among these; default all weights.
        blocks: the path of the list of blocks, if it is not found by itself.
        forward: calls the model with a batch; default with its first tensor, or a mapping as keyword arguments.
        device: where a block is worked on.
        report: called with ("block", facts) after each.

    Raises:
        ResproutError: as `prune`; or a model without blocks.

    Example:
        >>> masks = prune_blocks(model, 0.5, data=batches, score=None, solver="sparsegpt", granularity="2:4")
    """
    bare = unwrap(model)
    cut = Cut.parse(score, solver, granularity)
    path = find_blocks(bare, blocks)
    shelf = Sharded() if is_sharded(bare.get_submodule(f"{path}.0")) else Shelf()
    way = Way(data, path, forward, shelf, device)
    wanted = _wanted(bare, way.path, targets, ignore)
    found: dict[str, Tensor] = {}
    for new in _cuts(bare, sparsity, cut, catalog.make("allocate", allocate), wanted, way, masks, report):
        found |= new
    return Masks({n: found[n] for n in wanted})


def prune_folder(
    source: str | Path,
    out: str | Path,
    sparsity: float,
    *,
    data: Sequence[Any],
    score: str | Score | None = "wanda",
    solver: str | Solver | None = None,
    allocate: str | Allocation = "uniform",
    granularity: str | granularities.Granularity = "row",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    blocks: str | None = None,
    forward: Forward = usual,
    device: str | torch.device | None = None,
    report: Report | None = None,
) -> dict[str, int]:
    """Prune a model from folder to folder: in memory are one block, its Gram matrices, and what the blocks read.

    Both are ordinary Hugging Face folders. Killed and called again in the same way it goes on after the last block written.

    Args:
        source: folder with config.json and safetensors.
        out: a folder that is empty or not there.
        sparsity, data, score, solver, allocate, granularity, targets, ignore, blocks, forward, device, report: as of
            `prune_blocks`.

    Returns:
        weights alive per tensor.

    Raises:
        CheckpointError: a damaged source, or an `out` that holds something else.
        ResproutError: as `prune_blocks`.
    """
    cut, share = Cut.parse(score, solver, granularity), catalog.make("allocate", allocate)
    config = {"source": str(Path(source).resolve()), "sparsity": sparsity, "cut": repr(cut), "allocate": repr(share)}
    config |= {"targets": list(targets or ()), "ignore": list(ignore), "data": checksum(_tensors(data))[:16]}
    shelf = Folder(source, out, blocks=blocks, config=config)
    way = Way(data, shelf.path, forward, shelf, device)
    wanted = _wanted(shelf.model, shelf.path, targets, ignore)
    counts: dict[str, int] = {}
    for new in _cuts(shelf.model, sparsity, cut, share, wanted, way, None, report):
        counts |= {n: int(torch.count_nonzero(m)) for n, m in new.items()}
        del new  # or it would be there until the next block is done
    shelf.finish()
    return counts


@dataclass(frozen=True)
class Way:
    """How one walks through a model: see `walk`."""

    data: Sequence[Any]
    path: str
    forward: Forward
    shelf: Shelf
    device: str | torch.device | None

    def walk(self, model: nn.Module) -> Iterator[Block]:
        """Walk."""
        return walk(model, self.data, self.path, self.forward, self.shelf, self.device)


def _wanted(model: nn.Module, path: str, targets: Sequence[str] | None, ignore: Sequence[str]) -> list[str]:
    """The prunable weights in blocks."""
    wanted = [n for n in prunable(model, targets, ignore) if n.startswith(f"{path}.")]
    if not wanted:
        raise ResproutError(f"nothing in {path!r} can be pruned: check targets= and ignore=")
    return wanted


def _tensors(data: Sequence[Any]) -> dict[str, Tensor]:
    """The tensors of the batches, to make a name of."""
    found = {}
    for i, batch in enumerate(data):
        items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
        found |= {f"{i}.{j}": t for j, t in enumerate(items) if isinstance(t, Tensor)}
    return found


def _cuts(
    model: nn.Module,
    sparsity: float,
    cut: Cut,
    share: Allocation,
    wanted: Sequence[str],
    way: Way,
    masks: Masks | None,
    report: Report | None,
) -> Iterator[dict[str, Tensor]]:
    """Prune block after block, and yield the masks of each by the model's names."""
    check_sparsity(sparsity)
    counts = _counts(model, sparsity, cut, share, wanted, way)
    for block in way.walk(model):
        began, own = time.monotonic(), _own(block, wanted)
        new = _masks(block, own, masks)
        if way.shelf.done(block.name):
            weights = dict(block.module.named_parameters())
            new = Masks({n: weights[n].detach() != 0 for n in own})
        else:
            try:
                new = cut(block, new, {inner: counts[n] for inner, n in own.items()}) if own else new
            except ResproutError as error:
                raise type(error)(f"{block.name}: {error}") from error
            block.changed = True
        facts = {"name": block.name, "index": block.index, "sparsity": new.sparsity}
        yield {own[inner]: mask for inner, mask in new.items()}
        del new
        if report is not None:
            report("block", facts | {"seconds": time.monotonic() - began})


def _counts(
    model: nn.Module, sparsity: float, cut: Cut, share: Allocation, wanted: Sequence[str], way: Way
) -> dict[str, int]:
    """How many weights each tensor keeps."""
    shapes = {n: p.shape for n, p in model.named_parameters()}
    if isinstance(pattern := cut.granularity, granularities.NM):
        if sparsity != 1 - pattern.n / pattern.m:
            raise ResproutError(
                f"granularity {pattern.n}:{pattern.m} means sparsity {1 - pattern.n / pattern.m:g}, got {sparsity:g}"
            )
        return {n: shapes[n].numel() * pattern.n // pattern.m for n in wanted}
    keep = keep_count(sparsity, sum(shapes[n].numel() for n in wanted))
    if share.by_shape:
        scores = Scores({n: torch.empty(shapes[n], device="meta") for n in wanted})
    else:
        scores = survey(model, wanted, cut.score or catalog.make("score", "wanda"), way)
    return counted(scores, keep, share, 0, 1.0, None)[0]


def survey(model: nn.Module, wanted: Sequence[str], score: Score, way: Way) -> Scores:
    """Return the scores of all wanted weights of the network as it stands, block by block."""
    before = {n: way.shelf.kept(n) for n in wanted}
    found = {n: t for n, t in before.items() if t is not None}
    for block in way.walk(model) if len(found) < len(wanted) else ():
        own = _own(block, wanted)
        for inner, worth in score(block.probe(_masks(block, own, None))).items():
            found[own[inner]] = way.shelf.keep(own[inner], select.dense(worth))
    return Scores({n: found[n] for n in wanted}, order=score.order, rows=score.rows)


def _own(block: Block, wanted: Sequence[str]) -> dict[str, str]:
    """A block's own names -> those in the model."""
    return {n.removeprefix(f"{block.name}."): n for n in wanted if n.startswith(f"{block.name}.")}


def _masks(block: Block, own: Mapping[str, str], masks: Masks | None) -> Masks:
    """A block's masks by its own names; default all alive, which take no memory."""
    weights = dict(block.module.named_parameters())
    if masks is not None:
        return Masks({i: masks[n] for i, n in own.items()})
    alive = torch.ones((), dtype=torch.bool, device=next(block.module.parameters()).device)
    return Masks({i: alive.expand(weights[i].shape) for i in own})


@dataclass(frozen=True)
class Given(Allocation):
    """Counts that are known already."""

    fidelity: ClassVar[Fidelity] = "identity-checked"
    counts: tuple[tuple[str, int], ...] = ()

    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> dict[str, float]:
        """Return them."""
        return {n: float(k) for n, k in self.counts}


class Fixed(Pick):
    """What a score has chosen."""

    def __init__(self, mask: Tensor):
        self.mask = mask

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return its columns."""
        return self.mask[:, first : first + scores.shape[1]]


class Seen(Pick):
    """Notes what another has picked, among what is alive."""

    def __init__(self, pick: Pick, alive: Tensor):
        self.pick, self.alive, self.step = pick, alive, pick.step
        self.picked: list[Tensor] = []

    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return what it picks."""
        self.picked.append(self.pick(scores, first) & self.alive[:, first : first + scores.shape[1]])
        return self.picked[-1]


def _single(gram: Tensor, name: str) -> Tensor:
    if len(gram) != 1:
        raise ResproutError(f"{name!r} is a convolution in groups, which no solver knows: add it to ignore=[...]")
    return gram[0].float()
