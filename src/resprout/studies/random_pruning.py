"""Does it matter which weights are pruned? Networks of growing width, cut at random before they are trained.

Liu, Chen, Chen, Shen, Mocanu, Wang, Pechenizkiy: "The Unreasonable Effectiveness of Random Pruning: Return of the Most
Naive Baseline for Sparse Training", ICLR 2022, arXiv:2202.02643. Each weight lives by the toss of a coin with its layer's
density, as in the paper; `exact` keeps exact counts instead, as all else in resprout does.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import catalog, find
from ..api import prune
from ..compare.control import narrowed, shuffled
from ..compare.statistics import Difference, paired, spread
from ..compare.train import train
from ..core.errors import ResproutError, check_sparsity, nearest
from ..core.kinds import Fidelity
from ..core.masks import Masks
from ..core.probe import first_tensor
from ..core.run import mix
from ..core.task import Task
from ..evaluate.outputs import outputs
from ..report.figure import Figure, lines
from ._kept import kept
from ._study import Finding, Study, Tell, silent

BATCHES = 8  # of training data that SNIP and GraSP look at


@dataclass(frozen=True)
class RandomPruning(Study):
    """Train dense and randomly pruned networks of each size for as many steps, and see how the gap goes with the width.

    Attributes:
        task, data: as in `compare`.
        model: a network, whose `widths` are then shares of its channels; without, a perceptron of so many units a layer.
        widths: rising.
        depths: hidden layers of the perceptron.
        sparsity: of the pruned networks.
        densities: who says how dense each layer is: allocations, or scores such as "snip" and "grasp", whose global cut of
            the untrained network is taken layer by layer ("SNIP-ratio"). The first is the one that the verdict is about. (Of a
            perceptron "er" is "erk", and "uniform_plus" differs from "uniform" below a density of 20 % only.)
        exact: keep each layer's count, rather than toss a coin for each weight.
        epochs, lr, seeds: of the training of every network.
        epsilon: the largest change of a normalised input in the attack (FGSM) that robustness is measured with.
    """

    task: str = "digits"
    data: str | None = None
    model: str | None = None
    widths: tuple[float, ...] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, ...] = (2,)
    sparsity: float = 0.8
    densities: tuple[str, ...] = ("erk", "uniform", "erk_plus", "snip")
    exact: bool = False
    epochs: float = 30
    lr: float = 0.1
    seeds: int = 5
    epsilon: float = 0.1
    claim: ClassVar[str] = (
        "The wider the network, the smaller the gap between a randomly pruned network trained from scratch and the dense one."
    )
    key: ClassVar[str | None] = "random-pruning"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: fewer than three widths, no seed, or a name that is neither an allocation nor a score.
        """
        began = time.monotonic()
        self._check()
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model or "")
        plan = [
            (seed, depth, width, way)
            for seed in range(self.seeds)
            for depth in (self.depths if self.model is None else (0,))
            for width in self.widths
            for way in ("dense", *self.densities)
        ]
        rows = []
        for i, (seed, depth, width, way) in enumerate(plan):
            tell(f"{way}, width {width:g}, seed {seed}", i / len(plan))
            rows.append(self._row(task, folder, seed, depth, width, way))
        return dataclasses.replace(self._found(rows), seconds=time.monotonic() - began)

    def _check(self) -> None:
        check_sparsity(self.sparsity)
        if len(self.widths) < 3 or sorted(set(self.widths)) != list(self.widths) or self.seeds < 1:
            raise ResproutError(f"a trend needs three rising widths and a seed, got {self.widths} and {self.seeds}")
        if not self.densities or "dense" in self.densities:
            raise ResproutError(
                "densities= names allocations and scores, one at least; dense networks are trained anyway"
            )
        known = [*catalog.names("allocate"), *catalog.names("score")]
        for way in self.densities:
            if way not in known:
                raise nearest(way, known, "allocation or score in densities")

    def _row(self, task: Task, folder: Path, seed: int, depth: int, width: float, way: str) -> dict[str, Any]:
        """What one network of a size and seed comes to."""
        where = {"width": width, "depth": depth, "way": way, "seed": seed}
        question = where | {"task": repr(task), "model": self.model, "epochs": self.epochs, "lr": self.lr}
        question |= {"epsilon": self.epsilon}
        if way != "dense":
            question |= {"sparsity": self.sparsity, "exact": self.exact}

        def answer() -> dict[str, Any]:
            torch.manual_seed(mix(seed, "network", depth, str(float(width))))
            model = self._network(task, depth, width, seed)
            masks = None if way == "dense" else random_masks(model, task, self.sparsity, way, seed, self.exact)
            steps = max(1, round(self.epochs * task.steps_per_epoch))
            run = train(model, task, steps, masks=masks, seed=seed, lr=self.lr)
            facts = {"sparsity": run.masks.sparsity, "weights": run.masks.total, "test": run.evaluate("test")}
            if (said := outputs(model, task, "test")) is not None:
                facts |= {
                    "calibration_error": said.calibration_error(),
                    "attacked": attacked(model, task, self.epsilon),
                }
            return facts

        return where | kept(folder / "networks", question, answer)

    def _network(self, task: Task, depth: int, width: float, seed: int) -> nn.Module:
        if self.model is None:
            batch = next(iter(task.batches("validation")))
            classes = 1 + max(int(labels.max()) for _, labels in task.batches("train"))
            return perceptron(first_tensor(batch)[0].numel(), depth, int(width), classes)
        model = find.network(self.model, None, mix(seed, "network") % 2**31)
        example = first_tensor(next(iter(task.batches("validation"))))[:1]
        return model if width == 1 else narrowed(model, 1 - width, example, seed)

    def _found(self, rows: Sequence[Mapping[str, Any]]) -> Finding:
        """The gaps, their trend, and the verdict."""
        tests = {(r["seed"], r["depth"], r["width"], r["way"]): 100 * r["test"] for r in rows}
        depths = list(dict.fromkeys(r["depth"] for r in rows))
        gaps, trends, series = [], [], {}
        first: list[Any] = []
        for depth in depths:
            for way in self.densities:
                label = way if len(depths) == 1 else f"{way}, {depth} hidden"
                by_seed = [
                    [tests[s, depth, w, "dense"] - tests[s, depth, w, way] for w in self.widths]
                    for s in range(self.seeds)
                ]
                at = {w: paired([g[i] for g in by_seed], [0.0] * self.seeds) for i, w in enumerate(self.widths)}
                trend = falling(self.widths, by_seed)
                half = [(d.high - d.low) / 2 if self.seeds > 1 else 0.0 for d in at.values()]
                series[label] = {"x": self.widths, "y": [d.mean for d in at.values()], "spread": half}
                gaps += [_line(way, depth, w, d, rows) for w, d in at.items()]
                mean = spearman(self.widths, [d.mean for d in at.values()])
                trends.append({"densities": way, "depth": depth, "spearman of the means": mean} | _interval(trend))
                first = first or [trend, mean, at]
        trend, mean, at = first
        small, large = at[self.widths[0]], at[self.widths[-1]]
        verdict = (
            f"At {self.sparsity:.0%} sparsity the gap of random {self.densities[0]} masks to the dense network goes from "
            f"{small.mean:.1f} points at width {self.widths[0]:g} to {large.mean:.1f} [{large.low:.1f}, {large.high:.1f}] at "
            f"{self.widths[-1]:g}; Spearman's correlation of gap and width is {trend.mean:+.2f} [{trend.low:+.2f}, "
            f"{trend.high:+.2f}] over {self.seeds} seed{'s' * (self.seeds != 1)} ({mean:+.2f} of the mean gaps)."
        )
        holds = None if self.seeds == 1 or trend.low <= 0 <= trend.high else trend.high < 0
        tables = {"Gap to the dense network": gaps, "Trend with the width": trends, "Networks": rows}
        return Finding(verdict, holds, tables, _figures(series, rows, self.densities))


def perceptron(inputs: int, depth: int, width: int, classes: int) -> nn.Sequential:
    """Return a network of `depth` hidden layers of `width` units, with ReLU."""
    sizes = [inputs, *[width] * depth]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def random_masks(model: nn.Module, task: Task, sparsity: float, way: str, seed: int, exact: bool) -> Masks:
    """Return masks with the layers' densities of `way` (an allocation, or a score's global cut), and random places.

    Args:
        model: at its initial weights; left as it is.
        task: training batches for scores that look at data.
        sparsity: asked for; met exactly where `exact`, else on average.
        way: as in `RandomPruning.densities`.
        seed: of the places.
        exact: keep each layer's count, or toss a coin for each weight.
    """
    twin, data = (
        copy.deepcopy(model),
        [b for _, b in zip(range(BATCHES), task.batches("train", seed=seed), strict=False)],
    )
    by_score = way in catalog.names("score")
    score, allocate = (way, "global") if by_score else ("random", way)
    found = prune(twin, sparsity, score=score, allocate=allocate, data=data, loss=task.loss, seed=seed)
    if exact:
        return shuffled(found, seed)
    return tossed(found, {n: k / found.sizes[n] for n, k in found.counts.items()}, seed)


def tossed(like: Masks, densities: Mapping[str, float], seed: int) -> Masks:
    """Return masks of the form of `like` in which each weight lives with its layer's density, independently."""

    def toss(name: str, mask: Tensor) -> Tensor:
        return (
            torch.rand(mask.shape, generator=torch.Generator().manual_seed(mix(seed, "toss", name))) < densities[name]
        )

    return Masks({n: toss(n, m) for n, m in like.items()})


def attacked(model: nn.Module, task: Task, epsilon: float) -> float:
    """Return test accuracy where every input moves by `epsilon` up its loss (FGSM: Goodfellow et al., arXiv:1412.6572)."""
    right, count = 0, 0
    model.eval()
    for inputs, labels in task.batches("test"):
        inputs = inputs.clone().requires_grad_()
        slope = torch.autograd.grad(task.loss(model, (inputs, labels)), inputs)[0]
        with torch.no_grad():
            right += int((model(inputs + epsilon * slope.sign()).argmax(1) == labels).sum())
        count += len(labels)
    return right / count


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the rank correlation, 0 where one side does not vary."""
    from scipy.stats import spearmanr

    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0
    return float(spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def falling(widths: Sequence[float], gaps: Sequence[Sequence[float]]) -> Difference:
    """Return the mean over seeds of the correlation of width and gap, (seeds, widths), and its interval in [-1, 1]."""
    found = paired([spearman(widths, g) for g in gaps], [0.0] * len(gaps))
    return dataclasses.replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def _interval(found: Difference) -> dict[str, Any]:
    return {"spearman": found.mean, "low": found.low, "high": found.high, "seeds": found.seeds}


def _line(way: str, depth: int, width: float, gap: Difference, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [r for r in rows if (r["way"], r["depth"], r["width"]) == (way, depth, width)]
    tests = [100 * r["test"] for r in mine]
    facts = {"densities": way, "depth": depth, "width": width, "test %": sum(tests) / len(tests)}
    facts |= {"std": _deviation(tests), "gap": gap.mean}
    return facts | {"low": gap.low, "high": gap.high, "sparsity": sum(r["sparsity"] for r in mine) / len(mine)}


def _figures(series: dict[str, Any], rows: Sequence[Mapping[str, Any]], densities: Sequence[str]) -> tuple[Figure, ...]:
    gap = lines(
        "Gap to the dense network over its width", series, "width", "gap in test accuracy (points)", log_x=True,
        words="How many points a randomly pruned network loses to the dense one of the same size; 95 % intervals over seeds.",
    )  # fmt: skip
    if not all("attacked" in r for r in rows):
        return (gap,)
    side: dict[str, Any] = {}
    for way in ("dense", densities[0]):
        for what, name in (("attacked", "accuracy under attack"), ("calibration_error", "calibration error")):
            at: dict[float, list[float]] = {}
            for r in rows:
                if r["way"] == way:
                    at.setdefault(r["width"], []).append(100 * r[what])
            means = [sum(v) / len(v) for v in at.values()]
            side[f"{name}, {way}"] = {"x": list(at), "y": means, "spread": [_deviation(v) for v in at.values()]}
    more = lines(
        "Robustness and calibration over the width", side, "width", "%", log_x=True,
        words="Accuracy on inputs moved up the loss (FGSM), and expected calibration error; standard deviation over seeds.",
    )  # fmt: skip
    return gap, more


def _deviation(values: list[float]) -> float:
    """The standard deviation; 0 of a single one, for JSON knows no NaN."""
    return spread(values)[1] if len(values) > 1 else 0.0
