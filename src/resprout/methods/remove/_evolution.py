"""An evolutionary search over levels whose sum stays what it is, judged by how far the outputs are from the dense network's.

Sieberling, Kuznedelev, Kurtic, Alistarh: "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search", 2024,
arXiv:2410.14649. Not a method: `tyr.py` and `darwinlm.py` use it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ...core.errors import LayerDied
from ...core.kinds import Step
from ...core.outputs import outputs, taught
from ...core.probe import Probe, first_tensor, to_device
from ...core.probe import share as share_of_ranks
from ...core.run import Run
from ...core.task import Split, Task
from ...numerics.distance import kl
from ._levels import Level, Site, settle

Choice = tuple[int, ...]  # a level for each site
Recovery = Callable[[int], tuple[Step, ...]]


@dataclass(frozen=True)
class Space:
    """What can be chosen: levels from `low` to `high` of each site; sums over sites of one kind stay what they are."""

    low: Sequence[int]
    high: Sequence[int]
    kinds: Sequence[Hashable]

    def mutate(self, parent: Choice, most: int, draw: Generator) -> Choice:
        """Return `parent` after up to `most` swaps (the lesser of two draws): one site a level up, one of its kind down."""
        child = list(parent)
        for _ in range(1 + int(torch.randint(most, (2,), generator=draw).min())):
            for up in torch.randperm(len(child), generator=draw).tolist():
                down = [i for i in self._lowerable(child, up) if child[up] < self.high[up]]
                if down:
                    child[up] += 1
                    child[down[int(torch.randint(len(down), (), generator=draw))]] -= 1
                    break
        return tuple(child)

    def _lowerable(self, child: Sequence[int], other: int) -> Iterator[int]:
        for i, level in enumerate(child):
            if i != other and self.kinds[i] == self.kinds[other] and level > self.low[i]:
                yield i


@dataclass(frozen=True)
class Stage:
    """Of a pool that many survive, judged on this share of the data, each after that many training steps."""

    survivors: int
    share: float
    steps: int = 0


def stages(survivors: Sequence[int], shares: Sequence[float], steps: Sequence[int] = ()) -> tuple[Stage, ...]:
    """Return the stages of one generation; without `steps` nothing is trained."""
    return tuple(map(Stage, survivors, shares, steps or [0] * len(survivors)))


def evolve(
    parent: Choice, space: Space, fitness: Callable[[Choice, Stage, int], float], plan: Sequence[Stage],
    generations: int, offspring: int, most: int, draw: Generator,
) -> tuple[Choice, list[float]]:  # fmt: skip
    """Return the best choice, and its fitness after each generation.

    Args:
        parent: to begin with.
        space: what can be chosen.
        fitness: (choice, stage, generation) -> less is better.
        plan: the stages of a generation. In the last the parent competes, and wins where it is as good.
        generations: how many.
        offspring: of each.
        most: swaps of one child.
        draw: the only source of randomness.
    """
    history: list[float] = []
    for generation in range(generations):
        children = (space.mutate(parent, most, draw) for _ in range(4 * offspring))
        pool = [c for c in dict.fromkeys(children) if c != parent][:offspring]
        best = 0.0
        for i, stage in enumerate(plan):
            pool = [parent, *pool] if i == len(plan) - 1 else pool
            found = {c: fitness(c, stage, generation) for c in pool}
            pool = sorted(pool, key=lambda c: found[c])[: stage.survivors]
            best = found[pool[0]] if pool else best
        parent = pool[0]
        history.append(best)
    return parent, history


class Trials:
    """Tries levels on copies of the network: the mean KL divergence from the dense network's outputs.

    Args:
        run: as it stands before; it stays.
        places, levels: what a choice chooses, by `levels[site][choice - low[site]]`.
        low: the choice that the first level of each site is.
        top: of the dense network's classes that many count.
        recover: what a stage's steps are spent on.
    """

    def __init__(
        self, run: Run, places: Sequence[Site], levels: Sequence[Sequence[Level]], low: Sequence[int], top: int,
        recover: Recovery = lambda steps: (),
    ):  # fmt: skip
        self.run, self.places, self.levels, self.low, self.recover = run, places, levels, low, recover
        self.fork = run.fork()
        self.fork.model.eval()
        if self.fork.anchor is None:
            self.fork.mark("dense")
        self.probe = self.fork.probe("fitness")
        self.data = [to_device(b, run.device) for b in self.probe.data()]
        self._dense = []
        for batch in self.data:
            logits = taught(self.fork, batch)[""]
            self._dense.append(logits.topk(min(top, logits.shape[-1]), dim=-1))
        self._known: dict[tuple[Choice, Stage], float] = {}

    def chosen(self, choice: Choice) -> list[Level]:
        """Return the level of each site."""
        return [ls[c - low] for ls, c, low in zip(self.levels, choice, self.low, strict=True)]

    def __call__(self, choice: Choice, stage: Stage, generation: int = 0) -> float:
        """Return the fitness; on all data it is taken once."""
        known = (choice, stage) if stage.share >= 1 else (choice, stage, generation)
        if known not in self._known:
            self._known[known] = self._try(choice, stage, generation)  # pyright: ignore[reportArgumentType]
        return self._known[known]  # pyright: ignore[reportArgumentType]

    def _try(self, choice: Choice, stage: Stage, generation: int) -> float:
        if not stage.steps:
            weights = {p.reader: lv.weight for p, lv in zip(self.places, self.chosen(choice), strict=True)}
            return self._distance(self.probe, weights, stage.share, generation)
        twin = self.run.fork()
        twin.task = _Unmeasured(self.run.task)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LayerDied)  # of a trial
            settle(twin, self.places, self.chosen(choice))
        for step in self.recover(stage.steps):
            twin.do(step)
        self.run.searched += twin.trained - self.run.trained
        twin.model.eval()
        return self._distance(twin.probe_with(self.data, twin.task.loss), {}, stage.share, generation)

    @torch.no_grad()
    def _distance(self, probe: Probe, weights: dict[str, Tensor], share: float, generation: int) -> float:
        total, rows = 0.0, 0
        for i, batch, size in self._parts(share, generation):
            with outputs(probe.model) as found:
                probe.loss(batch, weights)
            values, at = (t[:size] for t in self._dense[i])
            total += size * float(kl(values, found[""].gather(-1, at)))
            rows += size
        return float(share_of_ranks(torch.tensor(total / rows, dtype=torch.float64, device=self.run.device)))

    def _parts(self, share: float, generation: int) -> Iterator[tuple[int, Any, int]]:
        """Batches, the last one cut, that hold this share of all rows; each generation begins at another one."""
        sizes = [len(d.values) for d in self._dense]
        left = max(1, round(share * sum(sizes)))
        for step in range(len(sizes)):
            i = (generation + step) % len(sizes)
            size = min(left, sizes[i])
            yield i, self.data[i] if size == sizes[i] else head(self.data[i], size), size
            left -= size
            if not left:
                return


def head(batch: Any, rows: int, first: int = 0) -> Any:
    """Return `rows` rows, from `first`, of all tensors of a batch."""
    if isinstance(batch, Tensor):
        return batch[first : first + rows] if batch.dim() else batch
    if isinstance(batch, Mapping):
        return {k: head(v, rows, first) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [head(v, rows, first) for v in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def split(batch: Any) -> list[Any]:
    """Return a batch as batches of one row each."""
    return [head(batch, 1, i) for i in range(len(first_tensor(batch)))]


class _Unmeasured(Task):
    """A task of which nobody asks how good the network is: trials are judged by their outputs."""

    def __init__(self, task: Task):
        self.task = task

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Any]:
        """Those of the task."""
        return self.task.batches(split, seed=seed, epoch=epoch, start=start, shard=shard)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """That of the task."""
        return self.task.loss(model, batch)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Nothing."""
        return {self.metric: 0.0}

    @property
    def steps_per_epoch(self) -> int:
        """Those of the task."""
        return self.task.steps_per_epoch
