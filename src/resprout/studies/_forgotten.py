"""What a compressed population forgets, compared with a dense one: rows, the deciding sparsity, pictures; not a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..compare.statistics import Difference, paired, spread
from ..evaluate import exemplars
from ..report.figure import Figure
from ._gallery import gallery, unit
from ._population import AGAIN, DENSE

Row = dict[str, Any]
Predicted = Mapping[str, Tensor]  # label -> classes int64 (networks, samples)


def level_row(predicted: Predicted, label: str, sparsity: float, labels: Tensor, classes: int) -> Row:
    """Return what one population is like, and how it differs from the dense one. Shares and accuracies are in percent."""
    dense, ours = predicted[DENSE], predicted[label]
    chosen = exemplars.exemplars(dense, ours, classes)
    strict = exemplars.exemplars(dense, ours, classes, labels)
    mean, deviation = spread((100 * exemplars.accuracies(ours, labels)).tolist())
    row: Row = {"population": label, "sparsity": sparsity, "networks": len(ours), "accuracy": mean, "spread": deviation}
    row |= {"agreement": 100 * exemplars.agreement(ours, classes)}
    row |= {
        "exemplars": int(chosen.sum()),
        "share": 100 * float(chosen.double().mean()),
        "one side right": int(strict.sum()),
    }
    for name, who in (("dense", dense), ("other dense", predicted[AGAIN]), ("these", ours)):
        for where, among in (("exemplars", chosen), ("the rest", ~chosen)):
            value = 100 * float(np.mean(exemplars.accuracies(who, labels, among))) if bool(among.any()) else math.nan
            row[f"{name} on {where}"] = None if math.isnan(value) else value
    return row


def deciding(rows: Sequence[Row], near: float) -> str:
    """Return the population of the highest sparsity whose accuracy is within `near` points of the first row's.

    Where there is none, that of the lowest sparsity.
    """
    pruned = sorted((r for r in rows if r["sparsity"] > 0), key=lambda r: r["sparsity"])
    return ([r for r in pruned if r["accuracy"] >= rows[0]["accuracy"] - near] or pruned[:1])[-1]["population"]


def hardness(right: Tensor, chosen: Tensor) -> Difference:
    """Return accuracy on the chosen samples less that on the rest, in points, with its interval.

    Args:
        right: bool (networks, samples), of networks that had no part in choosing.
        chosen: bool (samples,), not all and not none.
    """
    values = 100 * exemplars.contrast(right.double(), chosen)
    return paired(values, np.zeros_like(values))


def audit(predicted: Predicted, labels: Tensor, classes: int, at: str) -> list[Row]:
    """Return the exemplars, those that most pairs of networks disagree on first: what a person should look at."""
    chosen = exemplars.exemplars(predicted[DENSE], predicted[at], classes)
    differ = exemplars.disagreement(predicted[DENSE], predicted[at], classes)
    modes = {x: exemplars.frequencies(predicted[x], classes).argmax(1) for x in (DENSE, at)}
    again = (predicted[AGAIN] == labels).double().mean(0)
    order = sorted(chosen.nonzero()[:, 0].tolist(), key=lambda i: (-float(differ[i]), i))
    return [
        {
            "sample": i,
            "label": int(labels[i]),
            "dense says": int(modes[DENSE][i]),
            "pruned says": int(modes[at][i]),
            "pairs that disagree": round(float(differ[i]), 4),
            "other dense networks right": round(float(again[i]), 4),
        }
        for i in order
    ]


def gallery_of(images: Tensor, rows: Sequence[Row], at: str, most: int) -> Figure:
    """Return the first `most` of the rows of `audit` as a gallery; `images` is the whole test split."""
    first = rows[:most]
    captions = [f"{r['label']}: {r['dense says']} → {r['pruned says']}" for r in first]
    words = (
        f"{len(first)} of {len(rows)} exemplars, those first on which most pairs of a dense and a pruned network disagree; under "
        "each its label: what dense networks say → what pruned ones say."
    )
    return gallery(f"Exemplars at {at} sparsity", unit(images)[[r["sample"] for r in first]], captions, words)
