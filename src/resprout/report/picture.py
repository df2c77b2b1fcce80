"""The picture of a run: accuracy over sparsity, the one-way curve and the regrown path, from `result.json` alone.

The sparse end is what one looks at, so the axis is the number of weights alive on a logarithmic scale, labelled as
sparsity. Colours are those of Okabe and Ito, told apart by the colour-blind; marks differ in shape as well.

What this file does not do: measure anything, or import the rest of the package beyond its errors and file writing.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import CheckpointError, ResproutError
from ..core.store import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LIGHT = "#1b1f24", "#5f6a75", "#d9dee3"
ONE_WAY, REGROWN, CONTROL, STUMP = "#0072b2", "#d55e00", "#56b4e9", "#009e73"
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)


def draw(folder: str | Path) -> dict[str, str]:
    """Draw `picture.png` and `picture.svg` beside `result.json`, and return their paths.

    Args:
        folder: a run's folder.

    Raises:
        ResproutError: matplotlib is not installed.
        CheckpointError: the folder has no result, or one that cannot be read.
    """
    folder = Path(folder)
    drawn, paths = figure(read(folder)), {}
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        with _style():  # the salt of names in an SVG is read when it is written
            drawn.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        write(folder / f"picture.{kind}", buffer.getvalue())
        paths[kind] = str(folder / f"picture.{kind}")
    return paths


def read(folder: Path) -> dict[str, Any]:
    """Return what `result.json` says.

    Raises:
        CheckpointError: it is not there, not finished, or damaged.
    """
    file = folder / "result.json"
    try:
        result = json.loads(file.read_text())
        _points(result)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds no result.json: not a run's folder, or a run that has not ended"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!r}") from error
    return result


def figure(result: dict[str, Any]) -> Figure:
    """Return the figure of a result.

    Raises:
        ResproutError: matplotlib is not installed.
    """
    with _style():
        from matplotlib.figure import Figure

        whole = Figure(figsize=(8.6, 5.6), facecolor="white", layout="constrained")
        ax = whole.subplots()
        _axes(ax, result)
        _words(whole, ax, result)
        whole.draw_without_rendering()  # settles the layout, so that lengths on the page are known
        _curves(ax, result)
        _arrivals(ax, result)
        _marks(ax, result)
        whole.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, columnspacing=3)
        whole.draw_without_rendering()
    return whole


def _style() -> AbstractContextManager[Any]:
    """matplotlib's settings for the picture, whatever the user's own are.

    Raises:
        ResproutError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ResproutError("the picture needs matplotlib: pip install 'resprout[report]'") from error
    style: Any = {"font.size": 10, "font.family": "sans-serif", "svg.hashsalt": "resprout"}
    return matplotlib.rc_context(style)


def _x(sparsities: Sequence[float]) -> list[float]:
    """Places on the axis: the density, of which 0 has none."""
    return [max(1 - s, 1e-7) for s in sparsities]


def _points(result: dict[str, Any]) -> list[tuple[float, float]]:
    """Every (sparsity, validation) that is drawn."""
    marks = [(a["sparsity"], a["validation"]) for a in (result["dense"], *result["frontier"], *result["control"])]
    curve = [(s, v) for s, v in result["curve"]]
    return marks + curve + [(s, v) for _, s, v in result["path"]]


def _regrown(result: dict[str, Any]) -> bool:
    """Whether the run was sparser on its way than where it ends."""
    return (result.get("stump") or 0.0) > max(a["sparsity"] for a in result["frontier"]) + 1e-4


def _total(result: dict[str, Any]) -> int:
    return max(1, int(result["dense"]["alive"]))


def _errors(ax: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic in the error, with ticks in accuracy: 99 % and 98 % are as far apart as 90 and 80."""
    low, high = min(values), max(values)
    soft = max(0.002, (1 - high) / 2)  # keeps an accuracy of 100 % on the page
    worst, best = 1 - low + soft, 1 - high + soft
    ax.set_yscale(
        "function",
        functions=(
            lambda v: -np.log10(np.clip(1 - np.asarray(v, float) + soft, 1e-9, None)),
            lambda u: 1 + soft - 10.0 ** -np.asarray(u, float),
        ),
    )
    room = math.log10(worst / best) or 1.0
    ax.set_ylim(1 + soft - worst * 10 ** (0.06 * room), 1 + soft - best / 10 ** (0.08 * room))
    bottom, top = ax.get_ylim()
    ticks: list[float] = []
    for t in (0.0, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 1.0):
        if bottom <= t <= top and (not ticks or math.log10((1 - ticks[-1] + soft) / (1 - t + soft)) > 0.06 * room):
            ticks.append(t)
    ax.set_yticks(ticks, [f"{100 * t:g} %" for t in ticks])
    ax.set_yticks([], minor=True)


def _axes(ax: Axes, result: dict[str, Any]) -> None:
    points = _points(result)
    sparsest = max(s for s in (*(s for s, _ in points), result.get("cliff"), result.get("stump")) if s is not None)
    end = max(1 - sparsest, 1e-6) / 1.35
    ax.set_xscale("log")
    ax.set_xlim(1.18, end)  # dense on the left
    ticks = [t for t in TICKS if 1 - t >= end]
    ax.set_xticks([1 - t for t in ticks], [f"{100 * t:g} %" for t in ticks])
    ax.set_xticks([], minor=True)
    _errors(ax, [v for _, v in points])
    ax.set_xlabel("sparsity: prunable weights that are zero", color=INK)
    ax.set_ylabel(f"validation {result.get('metric', 'accuracy')}", color=INK)
    total = _total(result)
    top = ax.secondary_xaxis("top", functions=(lambda d: np.asarray(d) * total, lambda n: np.asarray(n) / total))
    counts = [n for p in range(10) for n in (10**p, 3 * 10**p) if total * end <= n <= 1.1 * total]
    top.set_xscale("log")
    top.set_xticks(counts, [_count(n) for n in counts])
    top.set_xticks([], minor=True)
    top.set_xlabel("weights alive", color=GREY, loc="right")
    top.tick_params(colors=GREY, length=3)
    ax.tick_params(colors=INK, length=3)
    ax.grid(axis="y", color=LIGHT, linewidth=0.8)
    ax.set_axisbelow(True)
    for spine in (*ax.spines.values(), *top.spines.values()):
        spine.set_visible(False)
    ax.spines["bottom"].set_visible(True)
    ax.spines["bottom"].set_color(GREY)


def _count(n: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f}"


def _curves(ax: Axes, result: dict[str, Any]) -> None:
    dense = result["dense"]
    ax.axhline(dense["validation"], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ax.annotate(
        "dense", (1, dense["validation"]), (-4, 3), xycoords=ax.get_yaxis_transform(), textcoords="offset points", ha="right",
        color=GREY, fontsize=9,
    )  # fmt: skip
    curve = sorted((s, v) for s, v in result["curve"])
    if curve:
        s, v = zip(*curve, strict=True)
        ax.plot(
            _x(s), v, color=ONE_WAY, linewidth=2, marker="o", markersize=4.5, zorder=3,
            label="one-way: one cut, brief recovery",
        )  # fmt: skip
    path = [(s, v) for _, s, v in result["path"]]
    if path:
        x, v = _x([s for s, _ in path]), [v for _, v in path]
        ax.plot(
            x,
            v,
            color=REGROWN,
            linewidth=2,
            marker="o",
            markersize=3.5,
            zorder=4,
            label="this run: cut past it, regrown" if _regrown(result) else "this run",
        )
        for i in range(len(path) - 1):
            _arrow(ax, (x[i], v[i]), (x[i + 1], v[i + 1]))


def _arrow(ax: Axes, a: tuple[float, float], b: tuple[float, float]) -> None:
    """An arrow head in the middle of a piece of the path that is long enough to bear one."""
    (x0, y0), (x1, y1) = (ax.transData.transform(p) for p in (a, b))
    if math.hypot(x1 - x0, y1 - y0) < 28:
        return
    middle, towards = ((x0 + x1) / 2, (y0 + y1) / 2), 0.06
    head = (middle[0] + (x1 - x0) * towards, middle[1] + (y1 - y0) * towards)
    arrow = {"arrowstyle": "-|>", "color": REGROWN, "lw": 0, "mutation_scale": 14, "shrinkA": 0}
    back = ax.transData.inverted().transform
    ax.annotate("", tuple(back(head)), tuple(back(middle)), arrowprops=arrow)


def _arrivals(ax: Axes, result: dict[str, Any]) -> None:
    control = result["control"]
    if control:
        ax.scatter(
            _x([a["sparsity"] for a in control]), [a["validation"] for a in control], marker="s", s=70, zorder=6,
            facecolor="white", edgecolor=ONE_WAY, linewidth=2, label="one-way, same number of training steps",
        )  # fmt: skip
    frontier = result["frontier"]
    ax.scatter(
        _x([a["sparsity"] for a in frontier]), [a["validation"] for a in frontier], marker="*", s=200, zorder=7,
        facecolor=REGROWN, edgecolor="white", linewidth=1, label="arrived within the budget",
    )  # fmt: skip


def _marks(ax: Axes, result: dict[str, Any]) -> None:
    """Vertical lines: budgets (named on their left), cliff and stump (named on their right)."""
    lines = [(a["sparsity"], a["budget"], REGROWN, ":", "right") for a in result["frontier"]]
    for name, colour in (("cliff", ONE_WAY), ("stump", STUMP)):
        if result.get(name) is not None and (name == "cliff" or _regrown(result)):
            lines.append((result[name], name, colour, "--", "left"))
    across = ax.get_xaxis_transform()
    taken: list[tuple[float, str]] = []
    for sparsity, name, colour, style, side in sorted(lines, key=lambda line: line[0]):
        x = _x([sparsity])[0]
        at = ax.transData.transform((x, 0.5))[0]
        level = sum(abs(at - other) < 14 and side == beside for other, beside in taken)
        taken.append((at, side))
        ax.axvline(x, color=colour, linestyle=style, linewidth=1.3, zorder=2)
        ax.text(
            x, 0.02 + 0.14 * level, f" {name} ", color=colour, rotation=90, transform=across, ha=side, va="bottom",
            fontsize=9, fontweight="bold", zorder=8, path_effects=_halo(), in_layout=False,
        )  # fmt: skip


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="white")]


def _words(whole: Figure, ax: Axes, result: dict[str, Any]) -> None:
    asked = ", ".join(a["budget"] for a in result["frontier"])
    back = _regrown(result)
    name = "regrown" if back else "cut"
    tests = [("dense", [result["dense"]]), (name, result["frontier"]), ("one-way", result["control"])]
    said = [f"{name} " + ", ".join(f"{100 * a['test']:.2f} %" for a in which) for name, which in tests if which]
    title = f"Cut past the cliff, regrown to {asked}" if back else f"Cut to {asked}"
    whole.suptitle(title, x=0.012, ha="left", fontsize=14, color=INK)
    warned = " (SELECTED ON TEST)" if result.get("selected_on") == "test" else ""
    label = f"test {result.get('metric', 'accuracy')}{warned}:  "
    ax.set_title(label + "  ·  ".join(said), loc="left", fontsize=10, color=INK)
