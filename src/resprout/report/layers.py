"""Figures of an arm's layers: their densities at the stump and at the end, and how damaged they were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .accuracy import MUTED, named, short
from .figure import Figure
from .gather import Gathered, asked, percent, plain
from .journey import REGROWN, STUMP

Values = Mapping[str, float]


def densities(gathered: Gathered, arm: str, budget: str) -> Figure:
    """Return the density of each layer at the stump and at the end, means over seeds."""
    title = "Which layers were regrown"
    details = [gathered.detail(c) for c, _ in gathered.of(arm, budget)]
    ends = [
        {n: k / gathered.sizes[n] for n, k in d["counts"].items() if n in gathered.sizes}
        for d in details
        if "counts" in d
    ]
    stumps = [
        {n: k / gathered.sizes[n] for n, k in d["stump"]["counts"].items() if n in gathered.sizes}
        for d in details
        if "stump" in d
    ]
    before, after = _mean(stumps), _mean(ends)
    if not after:
        return Figure(title, [], {}, "This arm has kept no densities.")
    low = min(v for values in (before, after) for v in values.values() if v > 0) / 1.4
    ticks = [t for p in range(-6, 1) for t in (10.0**p, 3 * 10.0**p) if low <= t <= 1.0]
    axis = {
        "title": {"text": "weights alive, of the layer"}, "type": "log", "range": [math.log10(low), 0.06], "tickmode": "array",
        "tickvals": ticks, "ticktext": [f"{100 * t:g} %" for t in ticks], "minor": {"ticks": ""},
    }  # fmt: skip
    grown = {n: after[n] - before[n] for n in after if n in before}
    words = f"{arm} at {asked(budget)}: "
    most = max(grown, key=lambda n: after[n] / max(before[n], 1e-9), default=None)
    if most is None or after[most] <= before[most] * 1.001:
        words += "no layer has more weights at the end than at its sparsest; nothing was regrown."
    else:
        count = sum(after[n] > before[n] * 1.001 for n in grown)
        words += f"{count} of {len(grown)} layers have grown back, most of all {most}, from "
        words += f"{percent(before[most])} to {percent(after[most])} of its weights."
    return _pairs(title, list(after), before, after, axis, percent, words)


def damage(gathered: Gathered, arm: str, budget: str) -> Figure:
    """Return the similarity of each layer's attention maps to the dense network's, at the stump and at the end."""
    title = "Which layers were damaged"
    details = [d["damage"] for c, _ in gathered.of(arm, budget) if "damage" in (d := gathered.detail(c))]
    before, after = (
        _mean([d["stump"] for d in details if "stump" in d]),
        _mean([d["end"] for d in details if "end" in d]),
    )
    names = list(after or before)
    if not names:
        return Figure(title, [], {}, "This network has no spatial attention maps to compare.")
    axis = {
        "title": {"text": "similarity to the dense network (SSIM)"},
        "range": [min(-0.05, *before.values(), *after.values()) - 0.05, 1.05],
    }
    worst = min(before, key=lambda n: before[n]) if before else None
    words = f"{arm} at {asked(budget)}, validation images; 1 is unchanged. "
    if worst is not None:
        words += f"At its sparsest {worst} is damaged most ({f'{before[worst]:.2f}'.replace('-', '−')}). "
    words += "Training moves the maps as well, so that the end need not be nearer to the dense network than the stump."
    return _pairs(title, names, before, after, axis, lambda v: f"{v:.3f}", words)


def _mean(found: Sequence[Values]) -> dict[str, float]:
    names = dict.fromkeys(n for values in found for n in values)
    return {n: sum(values[n] for values in found if n in values) / sum(n in values for values in found) for n in names}


def _pairs(title: str, names: Sequence[str], before: Values, after: Values, axis: Any, said: Any, words: str) -> Figure:
    """Two marks for each layer and a line between them, the first layer on top."""
    places = {n: i for i, n in enumerate(names)}
    x: list[float | None] = []
    y: list[int | None] = []
    for n in names:
        if n in before and n in after:
            x += [before[n], after[n], None]
            y += [places[n], places[n], None]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": MUTED, "width": 2}, "hoverinfo": "skip",
         "showlegend": False, "meta": "reference"}
    ]  # fmt: skip
    for values, name, mark, colour in (
        (before, "at its sparsest", "diamond-open", STUMP),
        (after, "at the end", "circle", REGROWN),
    ):
        known = [n for n in names if n in values]
        if known:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": name, "x": [values[n] for n in known],
                    "y": [places[n] for n in known],
                    "marker": {"symbol": mark, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
                    "text": [f"<b>{plain(n)}</b><br>{name}: {said(values[n])}" for n in known],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )  # fmt: skip
    layout = {
        "xaxis": axis, "height": 170 + 24 * len(names), "meta": {"rows": len(names)},
        "yaxis": named([plain(short(n, 22)) for n in names]),
    }  # fmt: skip
    return Figure(title, traces, layout, words)
