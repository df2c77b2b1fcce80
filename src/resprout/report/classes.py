"""Figures of what a network says of each class: recalls and confusions, dense, pruned and regrown."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accuracy import MUTED
from .figure import COLOURS, Figure
from .gather import Found, Gathered, asked, percent, plain, signed

MOST = 40  # classes that are drawn; of more only those that change most
MARKED = 12  # classes up to which a confusion has its counts written in

Counts = NDArray[np.int64]


class Classes:
    """The confusions of a comparison's networks, read once.

    Args:
        gathered: the comparison that is read.
    """

    def __init__(self, gathered: Gathered):
        self.gathered = gathered
        self._known: dict[tuple[str, str], list[Counts]] = {}

    @cached_property
    def dense(self) -> list[Counts]:
        """A confusion matrix for each seed: how often class i (row) was taken for j (column)."""
        return self._read(self.gathered.dense)

    def of(self, arm: str, budget: str) -> list[Counts]:
        """The same of an arm at a budget."""
        key = (arm, budget)
        if key not in self._known:
            self._known[key] = self._read(self.gathered.of(arm, budget))
        return self._known[key]

    def _read(self, found: Found) -> list[Counts]:
        said = [self.gathered.outputs(cell) for cell, _ in found]
        return [o.confusion.numpy() for o in said if o is not None]

    def networks(self, arm: str, budget: str) -> dict[str, list[Counts]]:
        """Those that are shown beside each other: dense, the baseline, the arm; whichever there are."""
        names = {
            "dense": self.dense,
            self.gathered.baseline: self.of(self.gathered.baseline, budget),
            arm: self.of(arm, budget),
        }
        return {name: counts for name, counts in names.items() if counts}


def recalls(classes: Classes, arm: str, budget: str) -> Figure:
    """Return the accuracy on each class, mean over seeds."""
    networks = classes.networks(arm, budget)
    title = "Accuracy on each class"
    if len(networks) < 2:
        return Figure(title, [], {}, "The outputs of these networks were not kept.")
    means = {name: _recalls(counts) for name, counts in networks.items()}
    change = means[arm] - means.get("dense", next(iter(means.values())))
    order = np.arange(len(change))
    if len(order) > MOST:
        order = np.sort(np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")[:MOST])
    looks = zip(("x-thin", "square-open", "circle"), (MUTED, COLOURS[0], COLOURS[1]), strict=True)
    marks = dict(zip(("dense", "pruned", "arm"), looks, strict=True))
    traces = []
    for name, values in means.items():
        mark, colour = marks["dense" if name == "dense" else "arm" if name == arm else "pruned"]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": plain(name),
                "x": [f"{k}" for k in order], "y": [100 * float(values[k]) for k in order],
                "marker": {"symbol": mark, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
                "text": [f"<b>{plain(name)}</b><br>class {k}: {percent(values[k])}" for k in order],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "class"}, "type": "category"},
        "yaxis": {"title": {"text": "test accuracy on the class"}, "ticksuffix": " %"}, "height": 380,
    }  # fmt: skip
    worst = int(np.nanargmin(change))
    words = f"{arm} at {asked(budget)}: "
    if change[worst] < 0:
        words += f"class {worst} loses most against the dense network ({signed(100 * change[worst], 1)} points)."
    else:
        words += "no class loses against the dense network."
    if len(change) > MOST:
        words += f" The {MOST} of {len(change)} classes that change most are drawn."
    return Figure(title, traces, layout, words)


def confusions(classes: Classes, arm: str, budget: str) -> list[Figure]:
    """Return a figure of the mistakes of each network, all on one scale; the diagonal, which is right, is left out."""
    networks = classes.networks(arm, budget)
    shares = {name: _shares(counts) for name, counts in networks.items()}
    if not shares or len(next(iter(shares.values()))) > MOST:
        return []
    top = max(float(np.nanmax(share)) for share in shares.values()) or 1.0
    return [_matrix(name, networks[name], share, top) for name, share in shares.items()]


def _matrix(name: str, counts: list[Counts], share: NDArray[np.float64], top: float) -> Figure:
    whole = np.sum(counts, 0)
    n = len(whole)
    z = [[None if i == j else float(share[i, j]) for j in range(n)] for i in range(n)]
    text = [["" if i == j or not whole[i, j] else str(whole[i, j]) for j in range(n)] for i in range(n)]
    wrong = int(whole.sum() - np.trace(whole))
    pairs = [(int(whole[i, j]), i, j) for i in range(n) for j in range(n) if i != j]
    most = max(pairs, default=(0, 0, 0))
    trace: dict[str, Any] = {
        "type": "heatmap", "z": z, "x": [str(k) for k in range(n)], "y": [str(k) for k in range(n)], "zmin": 0, "zmax": top,
        "colorscale": [[0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1, "var(--heat-2)"]], "showscale": False,
        "xgap": 1, "ygap": 1,
        "hovertext": [[f"of class {i}, {share[i, j]:.1%} ({whole[i, j]}) taken for {j}" for j in range(n)] for i in range(n)],
        "hovertemplate": "%{hovertext}<extra></extra>", "name": plain(name), "hoverongaps": False,
    }  # fmt: skip
    if n <= MARKED:
        trace |= {"text": text, "texttemplate": "%{text}"}
    layout = {
        "xaxis": {"title": {"text": "taken for"}, "type": "category", "showgrid": False, "constrain": "domain"},
        "yaxis": {"title": {"text": "class"}, "type": "category", "autorange": "reversed", "showgrid": False, "scaleanchor": "x"},
        "height": 340, "showlegend": False,
    }  # fmt: skip
    seeds = f" over {len(counts)} seeds" if len(counts) > 1 else ""
    words = f"{wrong} of {int(whole.sum())} wrong{seeds}"
    words += f"; most often {most[1]} taken for {most[2]} ({most[0]})." if most[0] else "."
    return Figure(name, [trace], layout, words)


def _recalls(counts: list[Counts]) -> NDArray[np.float64]:
    """Accuracy on each class, mean over seeds; NaN where the class does not occur."""
    with np.errstate(invalid="ignore"):
        return np.mean([np.diagonal(c) / c.sum(1) for c in counts], 0)


def _shares(counts: list[Counts]) -> NDArray[np.float64]:
    """Of each class (row) the share taken for another, over all seeds; 0 on the diagonal."""
    whole = np.sum(counts, 0).astype(float)
    share = whole / np.maximum(1, whole.sum(1, keepdims=True))
    np.fill_diagonal(share, 0)
    return share
