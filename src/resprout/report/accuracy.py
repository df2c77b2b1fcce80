"""Figures of a comparison as a whole: accuracy over sparsity and over bytes, differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..compare.statistics import Difference, spread
from .figure import Figure, style
from .gather import Found, Gathered, Row, asked, fraction, interval, percent, plain

MUTED, INK = "var(--muted)", "var(--ink)"
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
ACCURACIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 1.0)


class Errors:
    """An axis of accuracy, logarithmic in the error: 99 % and 98 % are as far apart as 90 % and 80 %.

    Args:
        values: accuracies that are drawn, in [0, 1].
    """

    def __init__(self, values: Sequence[float]):
        self._soft = max(0.002, (1 - max(values)) / 2)  # keeps an accuracy of 100 % on the page
        self._best, self._worst = self(max(values)), self(min(values))

    def __call__(self, accuracy: float) -> float:
        """Return where an accuracy is drawn."""
        return 1 - min(1.0, max(0.0, accuracy)) + self._soft

    def axis(self, title: str) -> dict[str, Any]:
        """Return the axis for plotly.js."""
        room = math.log10(self._worst / self._best) or 0.3
        low, high = math.log10(self._worst) + 0.08 * room, math.log10(self._best) - 0.1 * room
        ticks = marks(ACCURACIES, self, low, high)
        return {
            "title": {"text": title}, "type": "log", "range": [low, high], "tickmode": "array", "minor": {"ticks": ""},
            "tickvals": [self(t) for t in ticks], "ticktext": [f"{100 * t:g} %" for t in ticks],
        }  # fmt: skip

    def whiskers(self, mean: float, deviation: float) -> tuple[float, float]:
        """Return the lengths of an error bar (up the axis' numbers, down), which a logarithm keeps on the page."""
        return self(mean - deviation) - self(mean), self(mean) - self(mean + deviation)


def marks(wanted: Sequence[float], place: Callable[[float], float], start: float, end: float) -> list[float]:
    """Return the fractions that are marked on a logarithmic axis: the first of those wanted that leave each other room.

    Args:
        wanted: fractions, the most wanted first; where fewer than three fit, multiples of a small step join them.
        place: where a fraction is drawn.
        start, end: of the axis, logarithms.
    """

    def kept(values: Sequence[float]) -> list[float]:
        found: dict[float, float] = {}
        for value in values:
            at = math.log10(max(place(value), 1e-9))
            if min(start, end) <= at <= max(start, end) and all(abs(at - x) > 0.07 * abs(start - end) for x in found):
                found[at] = value
        return sorted(found.values())

    ticks = kept(wanted)
    for step in (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
        if len(ticks) > 2:
            break
        ticks = kept([*wanted, *(round(k * step, 4) for k in range(round(1 / step) + 1))])
    return ticks


def sparsities(densest: float, sparsest: float, asked: Sequence[str] = ()) -> dict[str, Any]:
    """Return the axis of sparsity: the density on a logarithmic scale, dense on the left.

    Args:
        densest, sparsest: the densities of what is drawn.
        asked: budgets, whose sparsities are marked before others.
    """
    start, end = math.log10(densest * 1.15), math.log10(sparsest / 1.25)
    wanted = [share for b in asked if (share := fraction(b)) is not None]
    ticks = marks([*wanted, *SPARSITIES], lambda s: 1 - s, start, end)
    return {
        "title": {"text": "sparsity: prunable weights that are zero"}, "type": "log", "minor": {"ticks": ""},
        "tickmode": "array", "range": [start, end], "tickvals": [1 - s for s in ticks],
        "ticktext": [f"{100 * s:g} %" for s in ticks],
    }  # fmt: skip


def over_sparsity(gathered: Gathered) -> Figure:
    """Test accuracy of every recipe over its sparsity, mean and standard deviation over seeds."""

    def place(row: Row) -> float:
        return max(1e-7, int(row["alive"]) / gathered.total if gathered.total else 1 - float(row["sparsity"]))

    traces, errors = _curves(gathered, gathered.recipes, place)
    drawn = [x for t in traces for x in t["x"]]
    traces += _dense(gathered, errors, (1.3, min(drawn, default=0.01) / 2))
    layout = {"xaxis": sparsities(min(1.0, max(drawn) * 1.2), min(drawn), gathered.budgets)}
    layout |= {"yaxis": errors.axis(f"test {gathered.metric}"), "height": 480}
    return Figure(f"Test {gathered.metric} over sparsity", traces, layout, _told(gathered, "sparser to the right"))


def over_bytes(gathered: Gathered) -> Figure:
    """Test accuracy of every recipe over the bytes of its file."""
    traces, errors = _curves(gathered, gathered.recipes, lambda row: float(row["bytes"]))
    drawn = [x for t in traces for x in t["x"]]
    low, high = min(drawn), max(drawn)
    traces += _dense(gathered, errors, (high * 2, low / 2))
    ticks = [n * 2.0**p for p in range(44) for n in (1, 1.5) if low / 1.15 <= n * 2.0**p <= high * 1.15]
    axis = {
        "title": {"text": "bytes of the file"}, "type": "log", "minor": {"ticks": ""}, "tickmode": "array",
        "range": [math.log10(high * 1.15), math.log10(low / 1.15)],
        "tickvals": ticks, "ticktext": [size(n) for n in ticks],
    }  # fmt: skip
    layout = {"xaxis": axis, "yaxis": errors.axis(f"test {gathered.metric}"), "height": 480}
    return Figure(f"Test {gathered.metric} over bytes", traces, layout, _told(gathered, "smaller files to the right"))


def size(count: float) -> str:
    """Return bytes as people read them."""
    for least, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count:.0f} B"


def intervals(
    title: str, rows: Sequence[tuple[str, str, Difference]], words: str, labels: tuple[str, str] = ("worse", "better")
) -> Figure:
    """Return differences as dots with their intervals, one below the other, and zero.

    Args:
        title: of the figure.
        rows: (arm, budget, difference in points), from top to bottom.
        words: the description.
        labels: what the sides of zero mean: below, above.
    """
    looks = {
        "win": ("circle", "#0072b2", "shown to be better"),
        "loss": ("square", "#d55e00", "shown to be worse"),
        "no difference shown": ("circle-open", MUTED, "no difference shown"),
    }
    several = len({budget for _, budget, _ in rows}) > 1
    names = [f"{plain(short(arm))} · {asked(budget)}" if several else plain(short(arm)) for arm, budget, _ in rows]
    traces = []
    for verdict, (mark, colour, said) in looks.items():
        mine = [(i, arm, budget, d) for i, (arm, budget, d) in enumerate(rows) if d.verdict == verdict]
        if not mine:
            continue
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": said,
                "x": [d.mean for *_, d in mine], "y": [i for i, *_ in mine],
                "marker": {"symbol": mark, "color": colour, "size": 10, "line": {"width": 2, "color": colour}},
                "error_x": {
                    "type": "data", "symmetric": False, "array": [d.high - d.mean for *_, d in mine],
                    "arrayminus": [d.mean - d.low for *_, d in mine], "color": colour, "thickness": 1.6, "width": 4,
                },
                "text": [f"<b>{plain(a)}</b> at {asked(b)}<br>{interval(d)} points<br>{d.verdict}" for _, a, b, d in mine],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    low, high = min(0.0, *(d.low for *_, d in rows)), max(0.0, *(d.high for *_, d in rows))
    room = 0.06 * (high - low) or 1.0
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": f"← {labels[0]} · points · {labels[1]} →"}, "range": [low - room, high + room]},
        "yaxis": named(names),
        "shapes": [
            {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1}}
        ],
        "height": 150 + 26 * len(rows), "meta": {"rows": len(rows)},
    }  # fmt: skip
    return Figure(title, traces, layout, words)


def named(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of rows, at 0, 1, ... from the top, with their names."""
    places = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [len(names) - 0.4, -0.6]}
    return places | {"showgrid": False, "zeroline": False}


def short(name: str, most: int = 30) -> str:
    """Return a name that fits beside a figure, cut in its middle."""
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"


def _curves(
    gathered: Gathered, arms: Sequence[str], place: Callable[[Row], float]
) -> tuple[list[dict[str, Any]], Errors]:
    """A line of each arm, and the axis that all of them need."""
    found: dict[str, list[tuple[str, Found]]] = {}
    for arm in arms:
        found[arm] = [(b, seeds) for b in gathered.budgets if (seeds := gathered.of(arm, b))]
    values = [r["test"] for curve in found.values() for _, seeds in curve for _, r in seeds]
    errors = Errors(values + [r["test"] for _, r in gathered.dense])
    places = [place(r) for curve in found.values() for _, seeds in curve for _, r in seeds]
    step = (2.0 + max(places) / min(places)) ** min(
        0.008, 0.04 / len(found)
    )  # of one budget the points stand side by side, bars can be told apart
    traces = []
    for i, (arm, curve) in enumerate(found.items()):
        points, aside = [], step ** ((len(found) - 1) / 2 - i)
        for budget, seeds in curve:
            tests = [float(r["test"]) for _, r in seeds]
            mean, deviation = spread(tests)
            whiskers = errors.whiskers(mean, deviation if deviation == deviation else 0.0)
            x = aside * sum(place(r) for _, r in seeds) / len(seeds)
            points.append((x, mean, whiskers, _said(gathered.metric, arm, budget, seeds, mean, deviation)))
        points.sort(key=lambda p: -p[0])
        colour, mark, dash = style(i)
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": plain(arm),
                "x": [p[0] for p in points], "y": [errors(p[1]) for p in points],
                "line": {"color": colour, "dash": dash, "width": 2.5},
                "marker": {"symbol": mark, "size": 9, "color": colour},
                "error_y": {
                    "type": "data", "symmetric": False, "array": [p[2][0] for p in points],
                    "arrayminus": [p[2][1] for p in points], "color": colour, "thickness": 1.2, "width": 4,
                },
                "text": [p[3] for p in points], "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    return [t for t in traces if t["x"]], errors


def _said(metric: str, arm: str, budget: str, seeds: Found, mean: float, deviation: float) -> str:
    """What is read when one hovers over a point."""
    rows = [r for _, r in seeds]
    both = f"{percent(mean)} ± {100 * deviation:.2f}" if deviation == deviation else percent(mean)
    achieved = sum(float(r["sparsity"]) for r in rows) / len(rows)
    weight = sum(float(r["bytes"]) for r in rows) / len(rows)
    each = ", ".join(f"{100 * r['test']:.2f}" for r in rows)
    return (
        f"<b>{plain(arm)}</b>, asked {plain(asked(budget))}<br>test {metric} {both}<br>seeds: {each}"
        f"<br>sparsity {percent(achieved)}, {size(weight)}"
    )


def _dense(gathered: Gathered, errors: Errors, ends: tuple[float, float]) -> list[dict[str, Any]]:
    """The dense network, as a line across."""
    tests = [float(r["test"]) for _, r in gathered.dense]
    if not tests:
        return []
    mean, deviation = spread(tests)
    said = f"<b>dense</b><br>test {gathered.metric} {percent(mean)}" + (
        f" ± {100 * deviation:.2f}" if deviation == deviation else ""
    )
    steps = [ends[0] * (ends[1] / ends[0]) ** (k / 24) for k in range(25)]  # points to hover over
    return [
        {
            "type": "scatter", "mode": "lines", "name": "dense network", "x": steps, "y": [errors(mean)] * 25,
            "line": {"color": MUTED, "dash": "dash", "width": 1.5}, "text": [said] * 25,
            "hovertemplate": "%{text}<extra></extra>", "meta": "reference",
        }
    ]  # fmt: skip


def _told(gathered: Gathered, direction: str) -> str:
    lines = [line for line in gathered.lines if line.kind == "recipe"]
    if not lines:
        return "Nothing has finished yet."
    best, worst = max(lines, key=lambda line: line.test[0]), min(lines, key=lambda line: line.test[0])
    tests = [float(r["test"]) for _, r in gathered.dense]
    dense = f" The dense network has {percent(sum(tests) / len(tests))}." if tests else ""
    low, high = (f"{percent(x.test[0])} ({x.arm} at {asked(x.asked)})" for x in (worst, best))
    bars = "bars are one standard deviation over seeds, side by side where they would overlap"
    if max(line.seeds for line in lines) == 1:
        bars = "of one seed, so without a spread"
    return f"One line per arm, {direction}; {bars}. Test {gathered.metric} reaches from {low} to {high}.{dense}"
