"""Is the oracle one? Does the loss right after pruning, or any other score, say which filters to keep once all is retrained?

Feng, Tao, Wang: "Is Oracle Pruning the True Oracle?", arXiv:2412.00143. All subsets of filters with the same number in
each layer, or a sample of them, are cut out and retrained alike; Kendall's tau says how far a score foretells the end. Here
the end is that of a cosine to zero, where the paper takes the mean of the last five epochs.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import catalog, find
from ..compare.statistics import Difference, paired
from ..compare.train import train
from ..core import select, store
from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Fidelity, Score
from ..core.masks import Masks, keep_count, prunable
from ..core.probe import Probe, first_tensor
from ..core.run import mix
from ..core.task import Task
from ..core.units import Group, spread
from ..evaluate.outputs import outputs
from ..graph.shrink import shrink
from ..graph.structure import Structure
from ..graph.trace import trace
from ..report.figure import Figure, bars, scatter
from ._kept import kept
from ._study import Finding, Study, Tell, silent

Subset = tuple[tuple[int, ...], ...]  # of each group the units that stay
ORACLE = "pruned loss"
BATCHES = 8  # of training data that scores look at
USABLE = 0.2  # a tau within so much of zero is of no use, as the paper has it


@dataclass(frozen=True)
class OracleSanity(Study):
    """Cut out subsets of filters, retrain each, and correlate what was foretold with what came.

    Attributes:
        task, data: as in `compare`.
        cases: (network, how many of its layers are cut, from the first on; 0 all), from the easiest to the hardest.
        weights: safetensors of the trained dense networks, one for each case; without, every seed trains its own.
        ratio: of the channels of each layer that leave.
        batches: of training data, at most, that pruned loss is the mean over.
        subsets: where there are no more than so many, all are tried, else a sample of so many.
        scores: what else might foretell: each is the sum over the weights that stay.
        dense_epochs, dense_lr: training of the dense network.
        epochs, lr: retraining of every subset.
        repeats: retrainings of every subset, with other seeds; the end is their mean. How well the first agrees with the
            others is the most that anything could foretell.
        seeds: dense networks (or, of given weights, samples and retrainings).
    """

    task: str = "digits"
    data: str | None = None
    cases: tuple[tuple[str, int], ...] = (("lenet5_mini", 1), ("digits_cnn", 0))
    weights: tuple[str, ...] = ()
    ratio: float = 0.5
    batches: int = 64
    subsets: int = 30
    scores: tuple[str, ...] = ("filter_norm", "magnitude", "geometric_median", "taylor", "fisher", "apoz", "random")
    dense_epochs: float = 20
    dense_lr: float = 0.05
    epochs: float = 5
    lr: float = 0.01
    repeats: int = 2
    seeds: int = 5
    claim: ClassVar[str] = (
        "The loss right after pruning foretells what retraining makes of a network only where the task is as small as MNIST "
        "for LeNet; from CIFAR on Kendall's tau is within 0.2 of zero."
    )
    key: ClassVar[str | None] = "oracle-sanity"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: no case, seed or repeat, fewer than five subsets, or weights that are not one for each case.
        """
        began = time.monotonic()
        check_sparsity(self.ratio, "ratio")
        if not self.cases or self.subsets < 5 or min(self.seeds, self.repeats) < 1:
            got = f"{len(self.cases)}, {self.seeds}, {self.repeats} and {self.subsets}"
            raise ResproutError(f"cases, seeds and repeats must be at least 1 and subsets at least 5, got {got}")
        if self.weights and len(self.weights) != len(self.cases):
            raise ResproutError(
                f"weights= names one file for each of the {len(self.cases)} cases, got {len(self.weights)}"
            )
        rows = []
        plan = list(itertools.product(range(len(self.cases)), range(self.seeds)))
        for i, (case, seed) in enumerate(plan):
            rows += self._rows(case, seed, folder, lambda what, done, i=i: tell(what, (i + done) / len(plan)))
        return dataclasses.replace(self._found(rows), seconds=time.monotonic() - began)

    def _rows(self, case: int, seed: int, folder: Path, tell: Tell) -> list[dict[str, Any]]:
        """What is foretold of each subset of one dense network, and what came."""
        name, layers = self.cases[case]
        task = find.task(self.task, None if self.data is None else Path(self.data), name)
        dense = self._dense(case, task, seed, folder, tell)
        structure = trace(dense.eval(), first_tensor(next(iter(task.batches("train"))))[:1])
        groups = channels(dense, structure, layers)
        worths = {s: worth(dense, task, catalog.make("score", s), structure.groups, seed) for s in self.scores}
        chosen = subsets([len(g) for g in groups], self.ratio, self.subsets, seed)
        state = store.checksum(dense.state_dict())[:16]
        rows = []
        for i, subset in enumerate(chosen):
            tell(f"{name}, dense network {seed}, subset {i + 1} of {len(chosen)}", i / len(chosen))
            masks = staying(dense, groups, subset)
            question: dict[str, Any] = {"dense": state, "task": repr(task), "masks": masks.digest(), "seed": seed}
            question |= {"epochs": self.epochs, "lr": self.lr, "repeats": self.repeats}
            question |= {"batches": self.batches} if self.batches < task.steps_per_epoch else {}

            def answer(masks: Masks = masks) -> dict[str, Any]:
                return self._retrained(shrink(dense, masks, structure=structure), task, seed)

            facts = {"case": label(name, layers), "seed": seed, "subset": i}
            said = {s: sum_of(w, masks) for s, w in worths.items()}
            rows.append(facts | kept(folder / "subsets", question, answer) | said)
        return rows

    def _dense(self, case: int, task: Task, seed: int, folder: Path, tell: Tell) -> nn.Module:
        name = self.cases[case][0]
        if self.weights:
            return find.network(name, Path(self.weights[case]))
        tell(f"{name}, training dense network {seed}", 0.0)
        model, steps = find.network(name, None, seed), max(1, round(self.dense_epochs * task.steps_per_epoch))
        what = {"model": name, "task": repr(task)}
        train(model, task, steps, seed=seed, lr=self.dense_lr, best=True, folder=folder / "dense", config=what)
        return model

    def _retrained(self, small: nn.Module, task: Task, seed: int) -> dict[str, Any]:
        facts, ends = {ORACLE: training_loss(small, task, self.batches)}, []
        for repeat in range(self.repeats):
            model, steps = copy.deepcopy(small), max(1, round(self.epochs * task.steps_per_epoch))
            train(model, task, steps, seed=mix(seed, "retrain", repeat), lr=self.lr)
            said = outputs(model, task, "test")
            if said is None:
                raise ResproutError(
                    f"task {self.task!r} is no classification; its test loss and accuracy are asked for"
                )
            ends.append((said.accuracy, said.loss))
        (_, first), rest = ends[0], ends[1:]
        facts |= {"test": sum(a for a, _ in ends) / len(ends), "test_loss": sum(x for _, x in ends) / len(ends)}
        return facts | ({"first loss": first, "other losses": sum(x for _, x in rest) / len(rest)} if rest else {})

    def _found(self, rows: Sequence[Mapping[str, Any]]) -> Finding:
        """The correlations, the league, and the verdict."""
        league, each = [], []
        labels = [label(*case) for case in self.cases]
        for name, what in itertools.product(labels, (ORACLE, *self.scores)):
            runs = [[r for r in rows if r["case"] == name and r["seed"] == s] for s in range(self.seeds)]
            told = [foretold(run, what) for run in runs]
            loss = interval([t["tau with loss"] for t in told])
            facts = {"case": name, "criterion": what, "tau with loss": loss.mean, "low": loss.low, "high": loss.high}
            facts["tau with accuracy"] = sum(t["tau with accuracy"] for t in told) / self.seeds
            league.append(facts | {"rank of its pick": sum(t["rank"] for t in told) / self.seeds, "of": len(runs[0])})
            if what == ORACLE:
                ceilings = [{"agreement": agreement(run)} if self.repeats > 1 else {} for run in runs]
                each += [{"case": name, "seed": s} | t | ceilings[s] for s, t in enumerate(told)]
        oracle, hard = [line for line in league if line["criterion"] == ORACLE], labels[-1]
        said = [f"{t['tau with loss']:+.2f} [{t['low']:+.2f}, {t['high']:+.2f}] for {t['case']}" for t in oracle]
        runs = [[r for r in rows if r["case"] == hard and r["seed"] == s] for s in range(self.seeds)]
        ceiling = None if self.repeats == 1 else interval([agreement(run) for run in runs])
        low, high = (oracle[-1][end] for end in ("low", "high"))
        noise = ceiling is not None and ceiling.low <= 0  # nothing can foretell what is chance
        holds = None if self.seeds == 1 or (noise and low <= 0) or low <= USABLE <= high else high < USABLE
        word = {True: "is no usable proxy", False: "is a usable proxy", None: "is not shown to be a proxy or none"}[
            holds
        ]
        limit = "" if ceiling is None else f", where retraining again agrees with itself by {_short(ceiling)}"
        verdict = (
            f"Kendall's tau of the loss right after pruning and the test loss after retraining is {'; '.join(said)} over "
            f"{self.seeds} dense network{'s' * (self.seeds != 1)}: on the last{limit}, pruned loss {word} (|tau| of {USABLE})."
        )
        tables = {"Criteria": league, "Pruned loss and the end": each, "Subsets": rows}
        return Finding(verdict, holds, tables, self._figures(rows, league, labels))

    def _figures(
        self, rows: Sequence[Mapping[str, Any]], league: Sequence[Mapping[str, Any]], labels: Sequence[str]
    ) -> tuple[Figure, ...]:
        found = []
        for name in labels:
            mine = [r for r in rows if r["case"] == name]
            series = {f"dense network {s}": _points([r for r in mine if r["seed"] == s]) for s in range(self.seeds)}
            for pick in self.scores[:1]:
                best = [max((r for r in mine if r["seed"] == s), key=lambda r: r[pick]) for s in range(self.seeds)]
                series[f"the picks of {pick}"] = _points(best)
            found.append(
                scatter(
                    f"Before and after retraining: {name}",
                    series,
                    "training loss right after pruning (nats)",
                    "test loss after retraining (nats)",
                    words="Each point is a subset of filters. Were pruned loss an oracle, they would rise from left to right.",
                )
            )
        marks: dict[str, Any] = {}
        for name in labels:
            own = [line for line in league if line["case"] == name]
            half = [(line["high"] - line["low"]) / 2 for line in own]
            taus = [line["tau with loss"] for line in own]
            marks[name] = {"x": [line["criterion"] for line in own], "y": taus, "spread": half}
        words = (
            "Kendall's tau of each criterion with the test loss after retraining, 95 % intervals over dense networks."
        )
        return *found, bars("Which criterion foretells the end?", marks, "criterion", "Kendall's tau", words=words)


def label(network: str, layers: int) -> str:
    """Return a case in words."""
    return f"{network}, {'all layers' if layers == 0 else 'first layer' if layers == 1 else f'first {layers} layers'}"


def channels(model: nn.Module, structure: Structure, layers: int) -> list[Group]:
    """Return the first `layers` groups of channels in the model's order, or all (0).

    Raises:
        ResproutError: there is none.
    """
    order = {n: i for i, n in enumerate(dict(model.named_parameters()))}
    found = sorted((g for g in structure.groups if g.kind == "channel"), key=lambda g: order[g.name.partition("#")[0]])
    if not found:
        raise ResproutError(f"no channels of {type(model).__name__} can leave; see `resprout inspect`")
    return found[:layers] if layers else found


def subsets(sizes: Sequence[int], ratio: float, most: int, seed: int) -> list[Subset]:
    """Return which units stay, of each group all but `ratio`: all ways where they are no more than `most`, else a sample.

    No two are the same.
    """
    keeps = [max(1, keep_count(ratio, size)) for size in sizes]
    if math.prod(math.comb(n, k) for n, k in zip(sizes, keeps, strict=True)) <= most:
        return list(
            itertools.product(*(itertools.combinations(range(n), k) for n, k in zip(sizes, keeps, strict=True)))
        )
    chance, found = torch.Generator().manual_seed(mix(seed, "subsets")), dict[Subset, None]()
    while len(found) < most:
        picks = (torch.randperm(n, generator=chance)[:k].tolist() for n, k in zip(sizes, keeps, strict=True))
        found[tuple(tuple(sorted(p)) for p in picks)] = None
    return list(found)


def staying(model: nn.Module, groups: Sequence[Group], subset: Subset) -> Masks:
    """Return the masks of a model in which only the units of `subset` live."""
    alive = {}
    for group, units in zip(groups, subset, strict=True):
        alive[group.name] = torch.zeros(len(group), dtype=torch.bool)
        alive[group.name][list(units)] = True
    return Masks(spread(groups, alive, {n: tuple(p.shape) for n, p in prunable(model).items()}))


def worth(model: nn.Module, task: Task, score: Score, groups: Sequence[Group], seed: int) -> dict[str, Tensor]:
    """Return what `score` says of every weight of the dense network, as shares of its layer."""
    data = [b for _, b in zip(range(BATCHES), task.batches("train", seed=mix(seed, "worth")), strict=False)]
    probe = Probe(model, None, data, task.loss, seed=seed, training=False)
    probe.groups = tuple(groups)
    found = {n: select.dense(s).double() for n, s in score(probe).items()}
    return {n: s / s.abs().sum().clamp_min(1e-300) for n, s in found.items()}


def sum_of(worth: Mapping[str, Tensor], masks: Masks) -> float:
    """Return the sum over the weights that stay."""
    return sum(float(worth[n][mask].sum()) for n, mask in masks.items())


@torch.no_grad()
def training_loss(model: nn.Module, task: Task, batches: int) -> float:
    """Return the mean loss over training batches, in evaluation mode, the same ones for every model."""
    model.eval()
    losses = [float(task.loss(model, b)) for _, b in zip(range(batches), task.batches("train"), strict=False)]
    return sum(losses) / len(losses)


def kendall(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return Kendall's tau-b and its p-value; (0, 1) where one side does not vary."""
    from scipy.stats import kendalltau

    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0, 1.0
    found = kendalltau(x, y)
    return float(found.statistic), float(found.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def foretold(run: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Return how well a criterion foretells the end over the subsets of one dense network: 1 perfectly, -1 the reverse."""
    from scipy.stats import pearsonr, spearmanr

    sign = -1.0 if what == ORACLE else 1.0  # a low loss foretells a low loss
    said, good = [sign * r[what] for r in run], [-r["test_loss"] for r in run]
    (loss, p), (accuracy, p_accuracy) = kendall(said, good), kendall(said, [r["test"] for r in run])
    facts = {"tau with loss": loss, "p": p, "tau with accuracy": accuracy, "p (accuracy)": p_accuracy}
    flat = len(set(said)) < 2 or len(set(good)) < 2
    facts["spearman"] = 0.0 if flat else float(spearmanr(said, good).statistic)  # pyright: ignore
    facts["pearson"] = 0.0 if flat else float(pearsonr(said, good).statistic)  # pyright: ignore
    pick = max(range(len(run)), key=lambda i: said[i])
    return facts | {"rank": 1.0 + sum(g > good[pick] for g in good)}


def agreement(run: Sequence[Mapping[str, Any]]) -> float:
    """Return Kendall's tau of the first retraining and the mean of the others: what is not chance."""
    return kendall([r["first loss"] for r in run], [r["other losses"] for r in run])[0]


def interval(taus: Sequence[float]) -> Difference:
    """Return the mean of correlations over seeds with its interval, in [-1, 1]."""
    found = paired(list(taus), [0.0] * len(taus))
    return dataclasses.replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def _short(found: Difference) -> str:
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _points(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = [f"subset {r['subset']}: {r['test']:.2%}" for r in rows]
    return {"x": [r[ORACLE] for r in rows], "y": [r["test_loss"] for r in rows], "text": said}
