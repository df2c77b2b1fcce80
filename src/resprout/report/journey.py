"""Figures of the way that an arm went: cliff, stump and regrowth as a path; training curves."""

from __future__ import annotations

import math
from typing import Any

from ..methods.cliff.two_segment import TwoSegment
from .accuracy import Errors, sparsities
from .figure import COLOURS, Figure, style
from .gather import Gathered, asked, fraction, percent, plain

ONE_WAY, REGROWN, STUMP = COLOURS[0], COLOURS[1], COLOURS[2]  # as in picture.py
Points = list[tuple[float, float]]


def one_way(gathered: Gathered) -> Points:
    """Return (sparsity, mean validation accuracy) of the baseline at every budget, the dense network first."""
    places = [gathered.dense, *(gathered.of(gathered.baseline, b) for b in gathered.budgets)]
    points = [
        tuple(sum(float(r[name]) for _, r in seeds) / len(seeds) for name in ("sparsity", "validation"))
        for seeds in places
        if seeds
    ]
    return sorted((s, v) for s, v in points)


def path(gathered: Gathered, arm: str, budget: str) -> Figure:
    """Return the way of an arm to a budget through sparsity and validation accuracy, a line for each seed."""
    curve, seeds = one_way(gathered), gathered.of(arm, budget)
    ways = [(c.seed, d) for c, _ in seeds if (d := gathered.detail(c)).get("path")]
    if not ways:
        return Figure(f"The way of {arm} to {asked(budget)}", [], {}, "This arm has kept nothing of its way.")
    cliff = TwoSegment()([s for s, _ in curve], [v for _, v in curve])
    stump = _stump(ways)
    values = [v for _, v in curve] + [p[2] for _, d in ways for p in d["path"]]
    errors, traces = Errors(values), []
    if len(curve) > 1:
        traces.append(_curve(gathered, curve, errors))
    for i, (seed, detail) in enumerate(ways):
        traces += _way(arm, seed, detail["path"], errors, first=i == 0)
    sparsest = max([s for s, _ in curve] + [p[1] for _, d in ways for p in d["path"]])
    lines = [
        (cliff, "cliff", ONE_WAY, "dash"),
        (stump, "stump", STUMP, "dash"),
        (fraction(budget), "asked", REGROWN, "dot"),
    ]
    marks = sorted(((s, *rest) for s, *rest in lines if s is not None), key=lambda mark: mark[0])
    layout = {
        "xaxis": sparsities(1.0, max(1e-6, 1 - sparsest)),
        "yaxis": errors.axis(f"validation {gathered.metric}"), "height": 480, "hovermode": "closest",
        "shapes": [_line(1 - s, colour, dash) for s, _, colour, dash in marks],
        "annotations": [_name(1 - s, name, colour, i) for i, (s, name, colour, _) in enumerate(marks)],
    }  # fmt: skip
    return Figure(
        f"The way of {arm} to {asked(budget)}",
        traces,
        layout,
        _words(gathered.metric, arm, budget, cliff, stump, ways, curve),
    )


def _curve(gathered: Gathered, curve: Points, errors: Errors) -> dict[str, Any]:
    text = [
        f"<b>{plain(gathered.baseline)}</b> {'dense' if s == 0 else 'at ' + percent(s)}<br>validation {percent(v)}, mean"
        for s, v in curve
    ]
    return {
        "type": "scatter", "mode": "lines+markers", "name": f"{plain(gathered.baseline)}, where it ended at each budget",
        "x": [max(1 - s, 1e-7) for s, _ in curve], "y": [errors(v) for _, v in curve], "text": text,
        "line": {"color": ONE_WAY, "width": 2, "dash": "dash"}, "marker": {"symbol": "square", "size": 8, "color": ONE_WAY},
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _way(arm: str, seed: int, points: list[Any], errors: Errors, first: bool) -> list[dict[str, Any]]:
    """The line of a seed: dots in between, arrow heads that show the direction, a star at its end."""
    x, y = [max(1 - p[1], 1e-7) for p in points], [errors(p[2]) for p in points]
    text = [
        f"<b>{plain(arm)}</b>, seed {seed}<br>after {p[0]:,} steps<br>sparsity {percent(p[1])}<br>validation {percent(p[2])}"
        for p in points
    ]
    last = len(points) - 1
    return [
        {
            "type": "scatter", "mode": "lines+markers", "name": f"{plain(arm)}, step by step", "legendgroup": "way",
            "showlegend": first, "x": x, "y": y, "text": text, "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": REGROWN, "width": 2}, "opacity": 1.0 if first else 0.6,
            "marker": {
                "symbol": ["circle", *["arrow"] * (last - 1), "star"][: last + 1], "angleref": "previous", "opacity": 1,
                "size": [7, *[13] * (last - 1), 16][: last + 1], "color": REGROWN, "line": {"width": 1, "color": "var(--paper)"},
            },
        }
    ]  # fmt: skip


def _stump(ways: list[tuple[int, dict[str, Any]]]) -> float | None:
    """The sparsest point, mean over seeds, where it is sparser than where the way ends."""
    found = [(d["stump"]["sparsity"], d["path"][-1][1]) for _, d in ways if "stump" in d]
    if not found or not all(stump > end + 1e-4 for stump, end in found):
        return None
    return sum(stump for stump, _ in found) / len(found)


def _line(x: float, colour: str, dash: str) -> dict[str, Any]:
    look = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": look, "layer": "below"}


def _name(x: float, text: str, colour: str, level: int) -> dict[str, Any]:
    return {
        "x": math.log10(x), "y": 1 - 0.06 * level, "yref": "paper", "text": f"<b>{text}</b>", "showarrow": False,
        "xanchor": "right", "yanchor": "top", "font": {"color": colour, "size": 13}, "bgcolor": "var(--paper)", "borderpad": 2,
    }  # fmt: skip


def _words(
    metric: str,
    arm: str,
    budget: str,
    cliff: float | None,
    stump: float | None,
    ways: list[tuple[int, dict[str, Any]]],
    curve: Points,
) -> str:
    low = min(p[2] for _, d in ways for p in d["path"])
    ends = [d["path"][-1][2] for _, d in ways]
    mean = percent(sum(ends) / len(ends), 1)
    said = [
        f"{arm} falls to {percent(low, 1)} on its way, in its worst seed, and ends at {mean} validation {metric}, in the mean."
    ]
    if len(ways) == 1:
        said = [f"{arm} falls to {percent(low, 1)} on its way and ends at {mean} validation {metric}."]
    if stump is not None:
        said.append(f"It cuts to a stump of {percent(stump)} and grows back.")
    else:
        said.append("It does not cut past its budget: there is no stump.")
    if cliff is not None:
        said.append(f"The cliff of the one-way curve, by two straight lines, is at {percent(cliff, 1)}.")
    elif len(curve) < 4:
        said.append("A cliff needs four points of the one-way curve; these are fewer.")
    else:
        said.append("The one-way curve shows no cliff.")
    return " ".join(said)


def losses(gathered: Gathered, budget: str) -> Figure:
    """Return the training loss of every recipe over its steps, a thin line for each seed."""
    return _curves(gathered, budget, "Training loss", "training loss, running mean", validation=False)


def validations(gathered: Gathered, budget: str) -> Figure:
    """Return the validation accuracy of every recipe over its steps."""
    return _curves(
        gathered,
        budget,
        f"Validation {gathered.metric} while training",
        f"validation {gathered.metric}",
        validation=True,
    )


def _curves(gathered: Gathered, budget: str, title: str, y: str, *, validation: bool) -> Figure:
    traces: list[dict[str, Any]] = []
    scale = 100 if validation else 1
    for i, arm in enumerate(gathered.recipes):
        colour, _, dash = style(i)
        first = True
        for cell, _ in gathered.of(arm, budget):
            points = _validated(gathered.detail(cell)) if validation else gathered.losses(cell)
            if not points:
                continue
            shown = [f"step {s:,}: {percent(v) if validation else f'{v:.4f}'}" for s, v in points]
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "name": plain(arm), "legendgroup": arm, "showlegend": first,
                    "x": [s for s, _ in points], "y": [scale * v for _, v in points], "opacity": 1.0 if first else 0.55,
                    "line": {"color": colour, "dash": dash, "width": 2},
                    "text": [f"<b>{plain(arm)}</b>, seed {cell.seed}<br>{said}" for said in shown],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )  # fmt: skip
            first = False
    axis: dict[str, Any] = {"title": {"text": y}}
    axis |= {"ticksuffix": " %"} if validation else {"rangemode": "tozero"}
    layout = {"xaxis": {"title": {"text": "optimizer steps"}}, "yaxis": axis, "height": 380}
    return Figure(title, traces, layout, f"At {asked(budget)}, from the dense network on; a line for each seed.")


def _validated(detail: dict[str, Any]) -> Points:
    return [(s, v) for s, _, v in detail.get("path", [])]
