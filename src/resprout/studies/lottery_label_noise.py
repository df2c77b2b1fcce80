"""Under label noise, is the best lottery ticket of one size whatever it began with, and does it know what it does not know?

Arora, Irto, Goldt, Sanguinetti: "Quantifying lottery tickets under label noise: accuracy, calibration, and complexity", UAI 2023,
arXiv:2306.12190.

Iterative magnitude pruning with rewinding, to extreme sparsity, on a task whose true p(label | input) is known. The sparse
double descent has four phases: light (all training labels are learned by heart), critical (accuracy falls), sweet (noise is
not learned any more, accuracy rises to its maximum), collapse. N* is the number of weights at the maximum of the sweet phase,
chosen on validation data here (the specification says test); test figures are those of the network chosen. Weights are counted,
biases are not.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from .. import find
from ..api import prune
from ..compare.statistics import Difference, paired, spread
from ..compare.train import train
from ..core import store
from ..core.errors import LayerDied, ResproutError
from ..core.kinds import Fidelity
from ..core.masks import Masks
from ..core.run import mix
from ..core.task import Split
from ..core.train import Optimizer
from ..evaluate.calibration import Reliability, divergence, reliability
from ..evaluate.outputs import Outputs, outputs
from ..report.figure import Figure, bars, lines
from ..tasks.arrays import Arrays
from ._study import Finding, Study, Tell, silent
from ._synthetic import Known, mixture, noisy, perceptron

Row = dict[str, Any]
SHOWN = (
    "weights", "train accuracy", "validation accuracy", "test accuracy", "test loss", "calibration error", "divergence",
    "confidence", "train confidence",
)  # fmt: skip


@dataclass(frozen=True)
class LotteryLabelNoise(Study):
    """Prune by `rate` a round, from perceptrons of each of `widths` down to `down_to` weights, for each seed's own data.

    With `task` and `model` the data and the network are those, with `noise` put on the labels of all splits, and `widths`,
    `layers`, `samples` and `axes` do not count.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    layers: int = 2
    noise: float = 0.2
    samples: int = 400
    axes: int = 4
    seeds: int = 5
    rate: float = 0.2
    down_to: int = 6
    epochs: float = 60
    lr: float = 0.01
    optimizer: str = "adamw"
    task: str | None = None
    model: str | None = None
    data: str | None = None
    claim: ClassVar[str] = (
        "The best pruned network has about the same number of weights whatever the size of the dense one it was cut from, and "
        "under label noise its probabilities are far nearer to the truth."
    )
    key: ClassVar[str | None] = "lottery-label-noise"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if (self.task is None) != (self.model is None):
            raise ResproutError("task and model belong together: give both, or neither for the known mixture")
        if not 0 < self.rate < 1 or self.seeds < 2 or self.down_to < 1 or not self.widths:
            raise ResproutError(
                "lottery_label_noise needs a rate between 0 and 1, two seeds, a width, and down_to from 1"
            )

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Walk every chain that has not been walked, and compare."""
        sizes: tuple[int | str, ...] = self.widths if self.model is None else (self.model,)
        wanted = [(seed, size) for seed in range(self.seeds) for size in sizes]
        chains: dict[tuple[int, int | str], list[Row]] = {}
        for at, (seed, size) in enumerate(wanted):
            chains[seed, size] = self._chain(
                folder, seed, size, lambda what, s, at=at: tell(what, (at + s) / len(wanted))
            )
        return judge(chains, self.noise)

    def _begin(self, seed: int, size: int | str) -> tuple[Known, nn.Module]:
        """The data of a seed, and the network a chain begins with."""
        if self.task is None or self.model is None:
            task = mixture(self.noise, self.samples, seed=seed, axes=self.axes)
            return task, perceptron(task.train[0].shape[1], int(size), 2, self.layers, mix(seed, "network", size))
        clean = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        if not isinstance(clean, Arrays):
            raise ResproutError(
                f"task {self.task!r} keeps no arrays, whose labels could be flipped; take 'digits' or 'cifar10'"
            )
        return noisy(clean, self.noise, seed), find.network(self.model, None, mix(seed, "network"))

    def _chain(self, folder: Path, seed: int, size: int | str, tell: Tell) -> list[Row]:
        """Train, note, cut and rewind, until nearly nothing is left; kept after every round."""
        task, begun = self._begin(seed, size)
        masks, rows = Masks.dense(begun), []
        optimizer, steps = Optimizer(self.optimizer, decay=0.0), max(1, round(self.epochs * task.steps_per_epoch))
        facts = {"task": repr(task), "network": store.checksum(begun.state_dict()), "rate": self.rate, "lr": self.lr}
        facts |= {"optimizer": repr(optimizer), "steps": steps}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
        file = folder / "chains" / f"{size}-{seed}-{name}.safetensors"
        if file.exists():
            kept, facts = store.load_tensors(file)
            masks, rows = Masks({n: kept[n] for n in masks}), facts["rows"]
        dense = masks.total
        while masks.alive > self.down_to or not rows:
            done = float(np.log(dense / masks.alive) / np.log(max(2.0, dense / self.down_to)))
            tell(f"seed {seed}, {size}: {masks.alive:,} weights", done)
            network = copy.deepcopy(begun)
            train(
                network, task, steps, masks=masks, seed=mix(seed, size, len(rows)), lr=self.lr, optimizer=optimizer, looks=1
            )  # fmt: skip
            rows.append(measured(network, task, masks.alive))
            keep = int(masks.alive * (1 - self.rate))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LayerDied)  # this is the collapse
                masks = prune(network, 1 - keep / dense, masks=masks)
            store.save_tensors(file, dict(masks), facts | {"rows": rows})
        return [row for row in rows if row["weights"] > self.down_to or row is rows[0]]


def measured(network: nn.Module, task: Known, alive: int) -> Row:
    """Return what a trained network is like on the three splits; accuracies and errors are fractions."""
    learned = Known(
        train=task.train, validation=task.train, test=task.test, mean=task.mean, std=task.std, truth=task.truth
    )
    places: tuple[tuple[Known, Split], ...] = ((learned, "validation"), (task, "validation"), (task, "test"))
    said = [outputs(network, t, split) for t, split in places]
    train_, validation, test = (x for x in said if isinstance(x, Outputs))
    bins = reliability(test)
    row = {"weights": alive, "train accuracy": train_.accuracy, "validation accuracy": validation.accuracy}
    row |= {"validation samples": len(validation.labels), "test accuracy": test.accuracy, "test loss": test.loss}
    row |= {"calibration error": test.calibration_error(), "divergence": divergence(task.truth, test)}
    row |= {"confidence": float(test.confidence.mean()), "train confidence": float(train_.confidence.mean())}
    return row | {"bins": [list(bins.counts), list(bins.confidence), list(bins.right)]}


@dataclass(frozen=True)
class Phases:
    """The phase of each round, and which round is the best one (N*)."""

    names: tuple[str, ...]
    best: int


def phases(train_accuracy: Sequence[float], validation: Sequence[float], samples: int) -> Phases:
    """Return the phases of a chain, from the densest network to the sparsest.

    The best round is the one of highest validation accuracy among those after the last that fits 99 % of the training labels
    (among all, if there is none after it). Sweet are the rounds around it that are better than the dense network by more than
    two standard errors; light those at the start that fit, and are not worse by as much; critical lies between, collapse after.

    Args:
        train_accuracy, validation: fractions, one per round.
        samples: of the validation split.

    Raises:
        ResproutError: no round, or lists of two lengths.
    """
    if not train_accuracy or len(train_accuracy) != len(validation):
        raise ResproutError(
            f"phases need both accuracies of each round, got {len(train_accuracy)} and {len(validation)}"
        )
    fits = [a >= 0.99 for a in train_accuracy]
    after = next((i + 1 for i in reversed(range(len(fits))) if fits[i]), 0)
    best = max(
        range(after if after < len(fits) else 0, len(fits)), key=lambda i: (validation[i], i)
    )  # of equals, the smallest
    plain = validation[0]
    error = 2 * (plain * (1 - plain) / samples) ** 0.5
    first = last = best
    while first > 0 and validation[first - 1] > plain + error and not fits[first - 1]:
        first -= 1
    while last + 1 < len(fits) and validation[last + 1] > plain + error:
        last += 1
    light = 0
    while light < first and fits[light] and validation[light] >= plain - error:
        light += 1
    sweet = last + 1 - first
    names = (
        ["light"] * light + ["critical"] * (first - light) + ["sweet"] * sweet + ["collapse"] * (len(fits) - 1 - last)
    )
    return Phases(tuple(names), best)


def judge(chains: Mapping[tuple[int, int | str], Sequence[Row]], noise: float) -> Finding:
    """Return what the chains, (seed, size) -> rows, show."""
    sizes = list(dict.fromkeys(size for _, size in chains))
    rounds, best = [], []
    for (seed, size), rows in chains.items():
        found = phases(
            [r["train accuracy"] for r in rows], [r["validation accuracy"] for r in rows], rows[0]["validation samples"]
        )
        head: Row = {"begun with": size, "seed": seed}
        rounds += [head | {"round": i, "phase": found.names[i]} | {n: r[n] for n in SHOWN} for i, r in enumerate(rows)]
        dense, ticket = rows[0], rows[found.best]
        pick: Row = head | {"dense weights": dense["weights"], "N*": ticket["weights"]}
        pick["before collapse"] = found.names[-1] == "collapse"  # else N* might be smaller still
        for name in SHOWN[3:]:
            pick |= {f"{name}, dense": dense[name], f"{name}, N*": ticket[name]}
        best.append(pick | {"bins": (dense["bins"], ticket["bins"])})
    verdict, holds = _verdict(best, sizes, noise)
    figures = [_descent(rounds, sizes), _trust(rounds, sizes), *_reliability(best, sizes)]
    shown = [{k: v for k, v in row.items() if k != "bins"} for row in best]
    return Finding(verdict, holds, {"by size": _by_size(shown, sizes), "best": shown, "rounds": rounds}, figures)


def _difference(best: Sequence[Row], what: str) -> Difference:
    """N* less dense, one number a seed: the mean over sizes."""
    seeds = sorted({r["seed"] for r in best})
    sides = [
        [float(np.mean([r[f"{what}, {x}"] for r in best if r["seed"] == s])) for s in seeds] for x in ("N*", "dense")
    ]
    return paired(sides[0], sides[1])


def _verdict(best: Sequence[Row], sizes: Sequence[int | str], noise: float) -> tuple[str, bool | None]:
    error, distance = _difference(best, "calibration error"), _difference(best, "divergence")
    sure = [float(np.mean([r[f"train confidence, {x}"] for r in best])) for x in ("dense", "N*")]
    spans = [f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" for d in (error, distance)]
    text = (
        f"with {100 * noise:g} % of the labels flipped, the best pruned network's calibration error differs from the dense one's "
        f"by {spans[0]} and its distance to the true distribution by {spans[1]} nats (mean confidence on training samples "
        f"{sure[1]:.2f}, dense {sure[0]:.2f}; {error.seeds} seeds)"
    )
    calibrated, against = error.high < 0 and distance.high < 0, error.low > 0 or distance.low > 0
    if len(sizes) < 2:
        return text, True if calibrated else (False if against else None)
    seeds, weights = sorted({r["seed"] for r in best}), {(r["seed"], r["begun with"]): r for r in best}
    small, large = (sorted(sizes, key=lambda s: weights[seeds[0], s]["dense weights"])[i] for i in (0, -1))
    ratio = paired(*([float(np.log2(weights[s, x]["N*"])) for s in seeds] for x in (large, small)))
    begun = weights[seeds[0], large]["dense weights"] / weights[seeds[0], small]["dense weights"]
    alike, apart = ratio.low > -1 and ratio.high < 1, ratio.low > 1 or ratio.high < -1
    text += (
        f"; begun with {begun:.0f} times as many weights, its size N* is {2**ratio.mean:.2f} times as large [{2**ratio.low:.2f}, "
        f"{2**ratio.high:.2f}]: within a factor of 2 is {'shown' if alike else 'refuted' if apart else 'not decided'}"
    )
    return text, True if calibrated and alike else (False if against or apart else None)


def _by_size(best: Sequence[Row], sizes: Sequence[int | str]) -> list[Row]:
    """Mean and spread over seeds for each size."""
    rows = []
    for size in sizes:
        mine = [r for r in best if r["begun with"] == size]
        row: Row = {"begun with": size, "dense weights": mine[0]["dense weights"], "seeds": len(mine)}
        row |= {"N*, geometric mean": float(np.exp(np.mean([np.log(r["N*"]) for r in mine])))}
        for name in ("test accuracy", "calibration error", "divergence", "train confidence"):
            for side in ("dense", "N*"):
                row[f"{name}, {side}"], row[f"spread of {name}, {side}"] = spread([r[f"{name}, {side}"] for r in mine])
        rows.append(row)
    return rows


def _mean_over(rounds: Sequence[Row], size: int | str, name: str) -> dict[str, list[float]]:
    """Mean and spread over seeds at each number of weights."""
    mine = [r for r in rounds if r["begun with"] == size]
    x = sorted({r["weights"] for r in mine})
    at = [[100 * r[name] for r in mine if r["weights"] == w] for w in x]
    return {
        "x": x,
        "y": [float(np.mean(v)) for v in at],
        "spread": [float(np.std(v, ddof=1)) if v[1:] else 0.0 for v in at],
    }


def _descent(rounds: Sequence[Row], sizes: Sequence[int | str]) -> Figure:
    series = {}
    for size in sizes:
        series |= {f"test, from {size}": _mean_over(rounds, size, "test accuracy")}
    for size in sizes[-1:]:
        series |= {f"train, from {size}": _mean_over(rounds, size, "train accuracy")}
    words = (
        "Accuracy over the weights that are left, from dense (right) to nearly none (left), mean and spread of seeds: fitting "
        "the noise costs test accuracy, which rises once pruning prevents it, and falls when too little is left."
    )
    return lines("Sparse double descent", series, "weights left", "accuracy, %", log_x=True, words=words)


def _trust(rounds: Sequence[Row], sizes: Sequence[int | str]) -> Figure:
    series = {f"from {size}": _mean_over(rounds, size, "calibration error") for size in sizes}
    words = "Expected calibration error over the weights that are left: dense networks that know the noise by heart are too sure."
    return lines("Calibration", series, "weights left", "calibration error, points", log_x=True, words=words)


def _reliability(best: Sequence[Row], sizes: Sequence[int | str]) -> list[Figure]:
    """Reliability and histogram of confidence, over all seeds, from the largest size."""
    mine, series, counts = [r for r in best if r["begun with"] == sizes[-1]], {}, {}
    for i, name in enumerate(("dense", "N*")):
        total = sum(
            (Reliability(*map(tuple, r["bins"][i])) for r in mine[1:]), Reliability(*map(tuple, mine[0]["bins"][i]))
        )
        used = [k for k, n in enumerate(total.counts) if n]
        x, y = ([100 * part[k] / total.counts[k] for k in used] for part in (total.confidence, total.right))
        series[name] = {"x": x, "y": y}
        edges = [f"{100 * (k + 0.5) / len(total.counts):.0f}" for k in used]
        counts[name] = {"x": edges, "y": [100 * total.counts[k] / sum(total.counts) for k in used]}
    series["perfect"] = {"x": [0, 100], "y": [0, 100]}
    words = "How often samples of each confidence are right: below the diagonal, a network is surer than it should be."
    title = f"Reliability, from {sizes[-1]}"
    return [
        lines(title, series, "confidence, %", "right, %", words=words),
        bars(
            f"How sure, from {sizes[-1]}",
            counts,
            "confidence, %",
            "% of the test samples",
            words="Histogram of confidence.",
        ),
    ]
