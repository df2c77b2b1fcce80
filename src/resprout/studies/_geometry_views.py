"""The four views of `robustness_lottery_vis` as tables and figures; not a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluate.geometry import correlations, tree
from ..report.figure import Figure, bars, heat, lines, scatter
from ..tasks.arrays import Arrays
from ._gallery import gallery, shown, unit
from ._population import inputs

METHODS = ("dense", "magnitude", "lottery", "snip", "random")
TRACKED = 6
Row = dict[str, Any]
Array = NDArray[np.float64]
Views = tuple[dict[str, list[Row]], list[Figure]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Field -> (seeds, methods, conditions, samples), what the conditions are (corruption, severity), clean first, and labels.

    "cka" is (seeds, methods, methods).
    """

    fields: Mapping[str, Array]
    conditions: Sequence[tuple[str, int]]
    labels: NDArray[np.int64]

    def __getitem__(self, name: str) -> Array:
        return self.fields[name]

    @property
    def corruptions(self) -> list[str]:
        """Their names, without the clean condition."""
        return list(dict.fromkeys(name for name, severity in self.conditions if severity))

    def of(self, corruption: str) -> list[int]:
        """Return the places of a corruption's conditions, in rising severity."""
        return [i for i, (name, _) in enumerate(self.conditions) if name == corruption]


def views(found: Measured, task: Arrays, pictures: int) -> Views:
    """Return tables and figures; `pictures` is how many samples are shown at most."""
    tables: dict[str, list[Row]] = {}
    figures: list[Figure] = []
    for made in (_matrix(found), _classes(found), _samples(found, task, pictures), _alike(found)):
        tables |= made[0]
        figures += made[1]
    return tables, figures


def _matrix(found: Measured) -> Views:
    """Methods against corruptions: accuracy, and mean shifts from clean."""
    clean = {name: found[name][:, :, :1] for name in ("norm", "angle", "margin", "confidence")}
    scale = np.abs(found["margin"][:, :, :1]).mean(-1, keepdims=True)
    size = found["norm"][:, :, :1].mean(-1, keepdims=True)
    shifts = {
        "accuracy": 100 * found["right"],
        "angle": found["angle"] - clean["angle"],
        "norm": 100 * (found["norm"] - clean["norm"]) / size,
        "margin": 100 * (found["margin"] - clean["margin"]) / scale,
        "confidence": 100 * (found["confidence"] - clean["confidence"]),
    }
    rows = []
    for i, method in enumerate(METHODS):
        for c, (name, severity) in enumerate(found.conditions):
            row: Row = {"method": method, "corruption": name, "severity": severity}
            rows.append(row | {what: float(v[:, i, c].mean()) for what, v in shifts.items()})
    units = {"accuracy": "%", "angle": "degrees", "norm": "% of clean", "margin": "% of clean"}
    heading = {
        "accuracy": "Accuracy under corruption",
        "angle": "How far features turn from their class",
        "norm": "How features shrink or grow",
        "margin": "What is left of the margin",
    }
    figures = []
    for what, unit_ in units.items():
        columns = (["clean"] if what == "accuracy" else []) + found.corruptions
        values = [[float(shifts[what][:, i][:, found.of(c)].mean()) for c in columns] for i in range(len(METHODS))]
        words = "Mean over severities, seeds and test samples" + (
            "." if what == "accuracy" else "; change from clean images."
        )
        moves, label = what != "accuracy", (heading[what], values, columns, METHODS, "corruption", "method")
        figures.append(heat(*label, unit=unit_, diverging=moves, words=words))
    return {"methods and corruptions": rows}, figures


def _classes(found: Measured) -> Views:
    """Each class by its mean angle and norm: dense and pruned, clean and corrupted."""
    classes = np.unique(found.labels)
    rows, at = [], {}
    for i, method in enumerate(METHODS):
        for where, picked in (("clean", slice(0, 1)), ("corrupted", slice(1, None))):
            for c in classes:
                angle, norm = (float(found[n][:, i, picked][..., found.labels == c].mean()) for n in ("angle", "norm"))
                at[method, where, int(c)] = angle, norm
                rows.append({"method": method, "images": where, "class": int(c), "angle": angle, "norm": norm})
    figures = []
    for method in METHODS[1:]:
        series = {
            f"{m}, {where}": {
                "x": [at[m, where, int(c)][0] for c in classes],
                "y": [at[m, where, int(c)][1] for c in classes],
                "text": [
                    f"class {c}: {at[m, where, int(c)][0]:.1f}°, norm {at[m, where, int(c)][1]:.2f}" for c in classes
                ],
            }
            for m in ("dense", method)
            for where in ("clean", "corrupted")
        }
        words = "Every point is a class: the mean angle of its features to the class's weights, and their mean norm."
        figures.append(
            scatter(f"Classes, dense and {method}", series, "angle to the class, degrees", "norm", words=words)
        )
    return {"classes": rows}, figures


def _samples(found: Measured, task: Arrays, pictures: int) -> Views:
    """Samples that flip under pruning, under corruption, under both; the most fragile and the most robust."""
    right = found["right"] > 0.5
    dense, base = right[:, 0, 1:], right[:, 0, :1]
    flips, kinds = (
        [],
        ("stays right", "flips by pruning", "flips by corruption", "flips by either", "flips by both together"),
    )
    for i, method in enumerate(METHODS[1:], 1):
        pruned, both = right[:, i, :1], right[:, i, 1:]
        by = {
            kinds[0]: pruned & dense & both,
            kinds[1]: ~pruned & dense,
            kinds[2]: pruned & ~dense,
            kinds[3]: ~pruned & ~dense,
            kinds[4]: pruned & dense & ~both,
        }
        flips.append(
            {"method": method}
            | {k: 100 * float((v & base).sum() / (base & (dense | True)).sum()) for k, v in by.items()}
        )
    fragile = 1 - found["right"][:, :, 1:].mean((0, 1, 2))
    held = 1 - found["right"][:, :, 0].mean((0, 1))
    order = sorted(range(len(fragile)), key=lambda s: (-fragile[s], s))
    rows: list[Row] = []
    for s in (*order[:50], *order[max(50, len(order) - 50) :]):
        row: Row = {"sample": s, "label": int(found.labels[s])}
        rows.append(row | {"wrong corrupted": 100 * float(fragile[s]), "wrong clean": 100 * float(held[s])})
    series = {k: {"x": list(METHODS[1:]), "y": [row[k] for row in flips]} for k in kinds[1:]}
    words = "Of the samples that the dense network gets right: which flip by pruning, by corruption, or only by both together."
    flipping = bars("Samples that flip", series, "method", "% of (sample, corruption) pairs", words=words)
    figures = [flipping, _tracks(found, order)]
    if shown(images := inputs(task)):
        first = order[:pictures]
        captions = [f"{int(found.labels[s])}: {100 * fragile[s]:.0f} %" for s in first]
        words = (
            "The samples that most networks get wrong when they are corrupted; under each its label, and how many do."
        )
        figures.append(gallery("The most fragile samples", unit(images)[first], captions, words))
    return {"flips": flips, "fragile and robust samples": rows}, figures


def _tracks(found: Measured, order: Sequence[int]) -> Figure:
    """The margin of a few samples from method to method, clean and corrupted: fragile ones, and the most robust."""
    margin = found["margin"] / np.abs(found["margin"][:, :, :1]).mean(-1, keepdims=True)
    picked = [*order[: TRACKED // 2], *order[-(TRACKED // 2) :]]
    stops = [(f"{m}, {where}", i, w) for w, where in enumerate(("clean", "corrupted")) for i, m in enumerate(METHODS)]
    series = {
        f"sample {s} (label {int(found.labels[s])})": {
            "x": [name for name, _, _ in stops],
            "y": [float((margin[:, i, 1:] if w else margin[:, i, :1])[..., s].mean()) for _, i, w in stops],
        }
        for s in picked
    }
    words = (
        "The margin, in units of each network's mean clean margin; below 0 a sample is misclassified. Three fragile samples, "
        "three robust ones."
    )
    return lines("Tracks of samples", series, "network and images", "margin", words=words)


def _alike(found: Measured) -> Views:
    """Which methods, and which corruptions, change the samples' angles alike."""
    change = found["angle"][:, :, 1:] - found["angle"][:, :, :1]
    seeds = len(change)
    methods = np.mean([correlations(change[s].reshape(len(METHODS), -1)) for s in range(seeds)], axis=0)
    names = found.corruptions
    by = np.stack(
        [change[:, :, [i - 1 for i in found.of(c)]] for c in names]
    )  # (corruptions, seeds, methods, severities, samples)
    corruptions = np.mean([correlations(by[:, s].reshape(len(names), -1)) for s in range(seeds)], axis=0)
    tables: dict[str, list[Row]] = {}
    figures = []
    for what, labels, similarity in (("methods", METHODS, methods), ("corruptions", names, corruptions)):
        grown = tree(similarity)
        cut = grown.clusters(min(3, len(labels)))
        ordered = [labels[i] for i in grown.order]
        values = [[float(similarity[i, j]) for j in grown.order] for i in grown.order]
        words = f"Correlation of the changes of each sample's angle; like {what} stand side by side (average linkage)."
        figures.append(
            heat(f"Which {what} are alike", values, ordered, ordered, what, what, unit="correlation", words=words)
        )
        tables[f"like {what}"] = [
            {what[:-1]: labels[i], "cluster of 3": cut[i]}
            | {f"with {labels[j]}": float(similarity[i, j]) for j in grown.order}
            for i in grown.order
        ]
    for row in tables["like methods"]:
        row["CKA with dense"] = float(found["cka"][:, 0, METHODS.index(row["method"])].mean())
    return tables, figures
