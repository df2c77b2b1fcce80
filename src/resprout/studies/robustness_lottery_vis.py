"""How do pruned networks see corrupted images? Angles and norms of features, dense against pruned, clean against corrupted.

Li, Liu, Yu, Kailkhura, Cao, Diffenderfer, Bremer, Pascucci: "'Understanding Robustness Lottery': A Geometric Visual Comparative
Analysis of Neural Network Pruning Approaches", arXiv:2206.07918 (2022).

The four views of the paper: methods against corruptions, classes by angle and norm, samples that flip, and which methods and
corruptions are alike. Added: how much of a change of margin is due to the angle and how much to the norm (Shapley's value of the
two: each is changed first and last, and the mean taken), for decisions alone hardly say: without biases no norm can change one.
The corruptions are ours (`evaluate/corruptions.py`), not CIFAR-10-C; edge-popup, which the paper has, is not among the methods.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import find
from ..api import prune
from ..compare.statistics import Difference, paired
from ..compare.train import train
from ..core import store
from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Fidelity
from ..core.masks import Masks
from ..core.run import mix
from ..evaluate.corruptions import SEVERITIES, SUITE, Corruption, corrupt
from ..evaluate.geometry import Geometry, cka, geometry
from ..tasks.arrays import Arrays
from ._geometry_views import METHODS, Measured, Row, views
from ._study import Finding, Study, Tell, silent

FIELDS = (
    "right",
    "norm",
    "angle",
    "margin",
    "angular margin",
    "confidence",
    "angle to mean",
    "angle part",
    "norm part",
)


@dataclass(frozen=True)
class RobustnessLotteryVis(Study):
    """For each seed train a dense network, prune it to `sparsity` in four ways, and look at all on clean and corrupted images.

    dense: trained for `epochs`, twice. magnitude: the second training begins with a cut. snip and random: both trainings are of
    what a cut of the untrained network leaves. lottery: `rounds` times trained, cut and rewound to the untrained
    network, whose last remains are trained twice. With `weights`, what is untrained here is that file.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    sparsity: float = 0.95
    seeds: int = 5
    epochs: float = 12
    lr: float = 0.1
    rounds: int = 3
    severities: tuple[int, ...] = (1, 3, 5)
    pictures: int = 24
    precision: str = "fp32"
    claim: ClassVar[str] = (
        "Some pruned networks withstand corruption better than the dense one, and they do so through the angle of the features "
        "rather than their norm."
    )
    key: ClassVar[str | None] = "robustness-lottery-vis"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if not 0 < check_sparsity(self.sparsity) < 1 or self.seeds < 2 or self.rounds < 1:
            raise ResproutError("robustness_lottery_vis needs a sparsity between 0 and 1, two seeds and a round")
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ResproutError(f"severities are some of {SEVERITIES}, got {self.severities}")

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Train what is missing, measure, and compare."""
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        if not isinstance(task, Arrays):
            raise ResproutError(
                f"task {self.task!r} keeps no arrays, so its images cannot be corrupted; take 'digits' or 'cifar10'"
            )
        conditions = [("clean", 0), *((c.__name__, s) for c in SUITE for s in self.severities)]
        fields: dict[str, list[Tensor]] = {name: [] for name in (*FIELDS, "cka")}
        for seed in range(self.seeds):
            found = self._seed(folder, task, seed, lambda what, s, seed=seed: tell(what, (seed + s) / self.seeds))
            for name in fields:
                fields[name].append(found[name])
        numbers = {name: torch.stack(each).double().numpy() for name, each in fields.items()}
        return self.judge(Measured(numbers, conditions, task.test[1].numpy()), task)

    def judge(self, found: Measured, task: Arrays) -> Finding:
        """Return what the measurements show."""
        rows = robustness(found)
        verdict, holds = said(rows, self.sparsity)
        tables, figures = views(found, task, self.pictures)
        return Finding(verdict, holds, {"robustness": rows} | tables, figures)

    def _seed(self, folder: Path, task: Arrays, seed: int, tell: Tell) -> dict[str, Tensor]:
        """What is measured on the networks of one seed: field -> (methods, conditions, samples)."""
        begun = find.network(self.model, None if self.weights is None else Path(self.weights), mix(seed, "network"))
        config = {"task": repr(task), "network": store.checksum(begun.state_dict()), "seed": seed}
        config |= {n: getattr(self, n) for n in ("sparsity", "epochs", "lr", "rounds", "severities", "precision")}
        place = store.RunFolder(folder, f"seed-{seed}", config)
        file = place.path / "measured.safetensors"
        if file.exists():
            return store.load_tensors(file)[0]
        networks = self._networks(begun, task, seed, place.path, tell)
        measured, clean = [], []
        for at, (method, network) in enumerate(networks.items()):
            tell(f"seed {seed}: looking at {method}", 0.8 + 0.2 * at / len(networks))
            fields, own = measure(network, task, SUITE, self.severities)
            measured.append(fields)
            clean.append(own.features)
        found = {name: torch.stack([fields[name] for fields in measured]) for name in FIELDS}
        found["cka"] = torch.tensor([[cka(a, b) for b in clean] for a in clean])
        store.save_tensors(file, found, {"methods": list(networks)})
        return found

    def _networks(self, begun: nn.Module, task: Arrays, seed: int, folder: Path, tell: Tell) -> dict[str, nn.Module]:
        """The trained networks of one seed, by method; the dense one first."""
        steps, trained = max(1, round(self.epochs * task.steps_per_epoch)), 0

        def learn(model: nn.Module, name: str, masks: Masks | None = None) -> nn.Module:
            nonlocal trained
            tell(f"seed {seed}: {name}", 0.8 * trained / (8 + self.rounds))
            trained += 1
            train(
                model, task, steps, masks=masks, seed=mix(seed, name), lr=self.lr, looks=1, precision=self.precision,
                folder=folder / "networks", config=[name, store.checksum(begun.state_dict())],
            )  # fmt: skip
            return model

        base = learn(copy.deepcopy(begun), "base")
        found = {"dense": learn(copy.deepcopy(base), "dense")}
        cut = copy.deepcopy(base)
        found["magnitude"] = learn(cut, "magnitude", prune(cut, self.sparsity, floor=1))
        masks, network = Masks.dense(begun), base
        for i in range(1, self.rounds + 1):
            masks = prune(copy.deepcopy(network), 1 - (1 - self.sparsity) ** (i / self.rounds), masks=masks, floor=1)
            network = learn(copy.deepcopy(begun), f"lottery-{i}", masks)
        found["lottery"] = learn(network, f"lottery-{self.rounds}-again", masks)
        data = [b for _, b in zip(range(8), task.batches("train", seed=mix(seed, "snip")), strict=False)]
        for method in ("snip", "random"):
            network = copy.deepcopy(begun)
            masks = prune(network, self.sparsity, score=method, data=data, loss=task.loss, floor=1, seed=seed)
            found[method] = learn(learn(network, f"{method}-1", masks), f"{method}-2", masks)
        assert tuple(found) == METHODS
        return found


def measure(
    model: nn.Module, task: Arrays, corruptions: Sequence[Corruption], severities: Sequence[int]
) -> tuple[dict[str, Tensor], Geometry]:
    """Return field -> (conditions, samples) of the test split, the clean one first, and the clean geometry."""
    clean = geometry(model, task, "test")
    rows = [_fields(clean, clean)]
    for corruption in corruptions:
        for severity in severities:
            worse = dataclasses.replace(task, test=(corrupt(task.test[0], corruption, severity), task.test[1]))
            rows.append(_fields(geometry(model, worse, "test"), clean))
    return {name: torch.stack([row[name] for row in rows]).float() for name in FIELDS}, clean


def _fields(now: Geometry, clean: Geometry) -> dict[str, Tensor]:
    angle, norm = parts(now, clean)
    values = (
        now.said.right,
        now.norms,
        now.angle,
        now.margin,
        now.angular_margin,
        now.said.confidence,
        now.angle_to_means(clean.means),
    )
    return dict(zip(FIELDS, (*values, angle, norm), strict=True))


def parts(now: Geometry, clean: Geometry) -> tuple[Tensor, Tensor]:
    """Return by how much angles, and norms, changed the margin (samples,) each; they sum to its change."""
    turned, longer = now.with_norms(clean.norms).margin, clean.with_norms(now.norms).margin
    angle = ((turned - clean.margin) + (now.margin - longer)) / 2
    return angle, now.margin - clean.margin - angle


def robustness(found: Measured) -> list[Row]:
    """Return one row a method: accuracies, the difference from the dense network, and by which part of the margin it comes.

    Accuracies are in percent. Parts are means over all corruptions of the change of margin, in percent of the network's mean
    absolute clean margin; `gain` columns are differences from the dense network, and their intervals hold for all
    methods at once (Bonferroni).
    """
    right, scale = 100 * found["right"], np.abs(found["margin"][:, :, 0]).mean(-1)[:, :, None]
    worse = right[:, :, 1:].mean(2)
    by = {part: 100 * found[f"{part} part"][:, :, 1:].mean(2) / scale for part in ("angle", "norm")}
    level, rows = 1 - 0.05 / (len(METHODS) - 1), []
    for i, method in enumerate(METHODS):
        row: Row = {"method": method, "accuracy": float(right[:, i, 0].mean()), "corrupted": float(worse[:, i].mean())}
        row |= {"spread": float(worse[:, i].mean(-1).std(ddof=1))}
        row |= {f"{part} part": float(values[:, i].mean()) for part, values in by.items()}
        gain = paired(worse[:, i], worse[:, 0], level=level)
        row |= {"gain": gain.mean, "low": gain.low, "high": gain.high, "seeds": gain.seeds}
        for part, values in by.items():
            row[f"gain by {part}"] = float((values[:, i] - values[:, 0]).mean())
        through = _through(by["angle"], by["norm"], i, level)
        rows.append(row | {"angle less norm": through.mean, "angle low": through.low, "angle high": through.high})
    return rows


def _through(angle: NDArray[np.float64], norm: NDArray[np.float64], i: int, level: float) -> Difference:
    """By how much more the angles of a method withstand, compared with the dense network's, than its norms do."""
    return paired(angle[:, i] - angle[:, 0], norm[:, i] - norm[:, 0], level=level)


def said(rows: Sequence[dict[str, Any]], sparsity: float) -> tuple[str, bool | None]:
    """Return the verdict: whether a method gains, and whether those that do gain through the angle."""
    pruned = rows[1:]
    best, gains = max(pruned, key=lambda r: r["gain"]), [r for r in pruned if r["low"] > 0]
    shown = max(gains, key=lambda r: r["gain"], default=best)
    told = [f"{r['method']} {r['gain']:+.2f} points [{r['low']:+.2f}, {r['high']:+.2f}]" for r in gains or [best]]
    by = [f"{abs(shown[n]):.1f} % {'more' if shown[n] > 0 else 'less'}" for n in ("gain by angle", "gain by norm")]
    text = (
        f"at {100 * sparsity:g} % sparsity {' and '.join(r['method'] for r in gains) or 'no pruned network'} "
        f"{'are' if len(gains) > 1 else 'is'} shown to be more accurate than the dense network on corrupted images "
        f"({'' if gains else 'best: '}{', '.join(told)}); {shown['method']} keeps {by[0]} of its clean margin than the dense "
        f"network does through angles and {by[1]} through norms (difference {shown['angle less norm']:+.1f} "
        f"[{shown['angle low']:+.1f}, {shown['angle high']:+.1f}])"
    )
    if not gains:
        return text, False if all(r["high"] < 0 for r in pruned) else None
    if any(r["angle low"] > 0 and r["gain by angle"] > 0 for r in gains):
        return text, True
    return text, False if all(r["angle high"] < 0 for r in gains) else None
