"""A figure as plain data: what plotly.js draws, without plotly; made by studies and pages, drawn by `page.py`.

Colours are those of Okabe and Ito, told apart by the colour-blind; series differ in mark or dash as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
MARKS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        title: what it shows.
        traces: plotly.js traces.
        layout: plotly.js layout, without colours of text and paper: the page sets those, light and dark.
        words: what to see in it, for those who cannot; one or two sentences.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""


Series = Mapping[str, Sequence[Any]]


def style(i: int) -> tuple[str, str, str]:
    """Return colour, mark and dash of the i-th series: those of 49 differ in at least one."""
    turn = i // len(COLOURS)
    return COLOURS[i % len(COLOURS)], MARKS[(i + turn) % len(MARKS)], DASHES[(i + turn) % len(COLOURS)]


def lines(
    title: str,
    series: Mapping[str, Series],
    x: str,
    y: str,
    *,
    marks: bool = True,
    log_x: bool = False,
    log_y: bool = False,
    words: str = "",
) -> Figure:
    """Return lines over a common axis.

    Args:
        title: of the figure.
        series: name -> {"x": ..., "y": ..., and where known "spread": half-widths of error bars, "text": for hovering}.
        x, y: what the axes are, with units.
        marks: show the points.
        log_x, log_y: logarithmic axes.
        words: a description.
    """
    traces = []
    for i, (name, points) in enumerate(series.items()):
        colour, mark, dash = style(i)
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers" if marks else "lines",
            "name": name,
            "x": list(points["x"]),
            "y": list(points["y"]),
            "line": {"color": colour, "dash": dash},
            "marker": {"symbol": mark, "size": 8, "color": colour},
        }
        if "spread" in points:
            trace["error_y"] = {"type": "data", "array": list(points["spread"]), "visible": True, "color": colour}
        if "text" in points:
            trace |= {"text": list(points["text"]), "hovertemplate": "%{text}<extra>%{fullData.name}</extra>"}
        traces.append(trace)
    return Figure(title, traces, _axes(x, y, log_x, log_y), words)


def scatter(title: str, series: Mapping[str, Series], x: str, y: str, *, words: str = "") -> Figure:
    """Return points; as `lines`, without the lines."""
    figure = lines(title, series, x, y, words=words)
    return Figure(title, [{**t, "mode": "markers"} for t in figure.traces], figure.layout, words)


def bars(title: str, series: Mapping[str, Series], x: str, y: str, *, words: str = "") -> Figure:
    """Return bars side by side: `series` as in `lines`, x being names."""
    traces = []
    for i, (name, points) in enumerate(series.items()):
        trace: dict[str, Any] = {"type": "bar", "name": name, "x": list(points["x"]), "y": list(points["y"])}
        trace["marker"] = {"color": COLOURS[i % len(COLOURS)]}
        if "spread" in points:
            trace["error_y"] = {"type": "data", "array": list(points["spread"]), "visible": True}
        traces.append(trace)
    return Figure(title, traces, _names(_axes(x, y), "xaxis") | {"barmode": "group"}, words)


def heat(
    title: str,
    values: Sequence[Sequence[float]],
    columns: Sequence[Any],
    rows: Sequence[Any],
    x: str,
    y: str,
    *,
    unit: str = "",
    diverging: bool = False,
    words: str = "",
) -> Figure:
    """Return a heat map: values[row][column]; `diverging` colours zero white."""
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [list(r) for r in values],
        "x": [str(c) for c in columns],
        "y": [str(r) for r in rows],
        "colorscale": "RdBu" if diverging else "Cividis",
        "colorbar": {"title": {"text": unit}},
        "hovertemplate": f"{x}: %{{x}}<br>{y}: %{{y}}<br>%{{z:.4g}} {unit}<extra></extra>",
    }
    if diverging:
        trace["zmid"] = 0
    return Figure(title, [trace], _names(_axes(x, y), "xaxis", "yaxis"), words)


def _axes(x: str, y: str, log_x: bool = False, log_y: bool = False) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x}, "type": "log" if log_x else "-"},
        "yaxis": {"title": {"text": y}, "type": "log" if log_y else "-"},
    }


def _names(axes: dict[str, Any], *which: str) -> dict[str, Any]:
    """Axes of names: left to itself plotly.js takes "50 %" for a number, and leaves out what is none."""
    return axes | {name: axes[name] | {"type": "category"} for name in which}
