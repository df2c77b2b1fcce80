"""What runtime.py measured, as a line, as tables in docs/performance.md and as pictures. Measures nothing."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = dict[str, Any]

TITLES = {
    "ours": "resprout",
    "deepsparse": "DeepSparse",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "compile": "torch.compile",
    "eager": "PyTorch eager",
}
DENSE = ("openvino", "onnxruntime", "compile", "eager")
NETS = {"vgg16": "VGG16", "resnet20": "ResNet-20"}
LOOKS = {  # colour-blind safe; marks differ in shape as well
    "ours": ("#d55e00", "*"),
    "deepsparse": ("#0072b2", "s"),
    "openvino": ("#1b1f24", "o"),
    "onnxruntime": ("#5f6a75", "^"),
    "compile": ("#8b96a0", "v"),
    "eager": ("#b7c0c8", "D"),
}


# -- targets -------------------------------------------------------------------------------------------------------


def target(cell: Cell) -> dict[str, float]:
    """How many times faster we set out to be: than the best dense engine ("dense"), than DeepSparse."""
    net, sparsity, batch = cell["net"], cell["sparsity"], cell["batch"]
    if batch > 1:
        return {"dense": 1.0, "deepsparse": 1.0} if sparsity >= 0.95 else {"dense": 1.0}
    dense = {"vgg16": 15.0, "resnet20": 10.0}[net] if sparsity >= 0.99 else 1.0
    steps = {"vgg16": [(0.95, 2.0)], "resnet20": [(0.98, 2.0), (0.95, 1.5)]}[net]
    return {"dense": dense, "deepsparse": next((times for least, times in steps if sparsity >= least), 1.0)}


def best_dense(cell: Cell) -> str | None:
    """The dense engine that we are ahead of by least."""
    there = [e for e in DENSE if e in cell["ratios"]]
    return min(there, key=lambda e: cell["ratios"][e][1], default=None)


def verdict(cell: Cell) -> dict[str, bool]:
    """Target -> whether it was met, of those that can be judged."""
    rivals, found = {"dense": best_dense(cell), "deepsparse": "deepsparse"}, {}
    for what, times in target(cell).items():
        if rivals[what] in cell["ratios"]:
            ratio = cell["ratios"][rivals[what]][1]
            found[what] = ratio >= times if times > 1 else ratio > 1
    return found


# -- words ---------------------------------------------------------------------------------------------------------


def line(cell: Cell) -> str:
    """One line of a cell, for the terminal."""
    times = ", ".join(f"{TITLES[e]} {ms(r['us'])}" for e, r in cell["engines"].items())
    busy = (
        f"; {100 * cell['disturbed']:.0f} % of the turns DISTURBED: the machine is busy"
        if cell["disturbed"] > 0.2
        else ""
    )
    return f"{name(cell)}: {times} ms; {judged(cell) or 'no ratio'}{busy}"


def name(cell: Cell) -> str:
    threads = f"{cell['threads']} thread{'s' * (cell['threads'] > 1)}"
    return f"{NETS[cell['net']]} {100 * cell['sparsity']:g} %, batch {cell['batch']}, {threads}"


def ms(us: float) -> str:
    return f"{us / 1e3:.3g}"


def times(cell: Cell, engine: str | None) -> str:
    """A ratio with its quartiles."""
    if engine not in cell["ratios"]:
        return "–"
    low, middle, high = cell["ratios"][engine]
    return f"**{middle:.3g}** ({low:.3g}–{high:.3g})"


def judged(cell: Cell) -> str:
    met = verdict(cell)
    return ", ".join(f"{target(cell)[w]:g}× {w} {'met' if ok else 'MISSED'}" for w, ok in met.items())


def markdown(results: dict[str, Any], page: Path) -> None:
    """Replace what stands between the page's marks by tables of the results."""
    parts = {"latency": latency(results)}
    if "roofline" in results:
        parts["roofline"] = roofline(results["roofline"])
    text = page.read_text()
    for mark, lines in parts.items():
        begin, end = f"<!-- {mark}: made by benchmarks/runtime.py --markdown -->", f"<!-- end of {mark} -->"
        head, _, rest = text.partition(begin)
        tail = rest.partition(end)[2]
        if not tail:
            raise SystemExit(f"{page} lacks the marks {begin} and {end}")
        text = "\n".join([head + begin, "", *lines, "", end]) + tail
    page.write_text(text)


def facts(results: dict[str, Any]) -> list[str]:
    """Where, when and with what it was measured."""
    cells, machine = results["cells"], results["machine"]
    versions = {e: r["version"] for c in cells for e, r in c["engines"].items()}
    times = sorted(c["time"] for c in cells)
    said = ", ".join(f"{TITLES[e]} {versions[e]}" for e in TITLES if e in versions)
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; {said}.",
        f"Measured {times[0]} to {times[-1]}, at most {100 * max(c['disturbed'] for c in cells):.0f} % of a "
        f"cell's turns disturbed by other processes, "
        f"{min(c['rounds'] for c in cells)} to {max(c['rounds'] for c in cells)} rounds per cell, "
        f"{among(cells, 'weights')} weights, kernels {among(cells, 'kernels')}:",
        "",
        *(f"    {command}" for command in dict.fromkeys(c["command"] for c in cells)),
    ]


def among(cells: list[Cell], what: str) -> str:
    return ", ".join(sorted({c[what] for c in cells}))


def latency(results: dict[str, Any]) -> list[str]:
    """Tables of milliseconds, one for each network, batch size and number of threads."""
    cells: list[Cell] = results["cells"]
    met = [(c, what, ok) for c in cells for what, ok in verdict(c).items()]
    lines = [*facts(results), ""]
    if met:
        missed = [f"{name(c)} ({target(c)[w]:g}× {w})" for c, w, ok in met if not ok]
        lines += [
            f"{len(met) - len(missed)} of {len(met)} targets met; missed: {'; '.join(missed) or 'none'}.",
            "",
        ]
    for (net, batch, threads), group in grouped(cells):
        shown = [e for e in TITLES if any(e in c["engines"] for c in group)]
        heads = [TITLES[e] for e in shown] + ["× best dense", "× DeepSparse", "targets"]
        lines += [f"**{NETS[net]}, batch {batch}, {threads} thread{'s' * (threads > 1)}**, ms", ""]
        lines += [f"| sparsity | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for c in group:
            row = [ms(c["engines"][e]["us"]) if e in c["engines"] else "–" for e in shown]
            row += [times(c, best_dense(c)), times(c, "deepsparse"), judged(c) or "–"]
            lines.append(f"| {100 * c['sparsity']:g} % | {' | '.join(row)} |")
        lines.append("")
    return lines[:-1]


def grouped(cells: list[Cell]) -> Iterator[tuple[tuple[str, int, int], list[Cell]]]:
    """(net, batch, threads) -> cells by sparsity."""

    def of(cell: Cell) -> tuple[int, int, int]:
        return list(NETS).index(cell["net"]), cell["batch"], cell["threads"]

    for _, group in itertools.groupby(sorted(cells, key=lambda c: (*of(c), c["sparsity"])), of):
        found = list(group)
        yield (found[0]["net"], found[0]["batch"], found[0]["threads"]), found


def roofline(found: dict[str, Any]) -> list[str]:
    """One table per network and batch size: each layer's GFLOP/s and how far that is towards its roof."""
    peaks = found["peaks"]
    lines = [
        f"One thread; measured peaks of this machine: {peaks['fma_registers']:.0f} GFLOP/s of multiply-adds in registers, "
        f"{peaks['fma_L1']:.0f} with one operand from L1 and {peaks['fma_L1_crossing']:.0f} where it crosses cache lines; "
        f"reading {peaks['read_L1']:.0f} GB/s from L1, {peaks['read_L2']:.0f} from L2, {peaks['read_L3']:.0f} from L3, "
        f"{peaks['read_memory']:.0f} from memory.",
        "",
        f"    {found['command']}",
        "",
    ]
    runs = sorted(found["runs"], key=lambda r: (list(NETS).index(r["net"]), r["batch"], r["sparsity"]))
    for (net, batch), group in itertools.groupby(runs, lambda r: (r["net"], r["batch"])):
        same = list(group)
        lines += [f"**{NETS[net]}, batch {batch}**: GFLOP/s (share of the roof), and how it is computed", ""]
        heads = " | ".join(f"{100 * r['sparsity']:g} %" for r in same)
        lines += [f"| layer | {heads} |", "|---" * (len(same) + 1) + "|"]
        for rows in zip(*(r["layers"] for r in same), strict=True):
            shown = [f"{r['gflops']:.3g} ({100 * r['share']:.0f} %), {r['variant']}" for r in rows]
            lines.append(f"| {rows[0]['layer']} | {' | '.join(shown)} |")
        whole = [f"{r['gflops']:.3g} ({100 * r['share']:.0f} %)" for r in same]
        called = [f"{r['network_us']:.4g} µs ({100 * r['network_share']:.0f} %)" for r in same]
        lines += [f"| all of them | {' | '.join(whole)} |"]
        lines += [f"| the network in one call, per image | {' | '.join(called)} |", ""]
    return lines[:-1]


# -- pictures ------------------------------------------------------------------------------------------------------

INK, GREY, LIGHT = "#1b1f24", "#5f6a75", "#d9dee3"


def pictures(results: dict[str, Any], folder: Path) -> None:
    """Draw latency.svg, and roofline.svg if that was measured."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "font.family": "sans-serif", "svg.hashsalt": "resprout"}):
        drawn = {"latency": draw_latency(results)}
        if "roofline" in results:
            drawn["roofline"] = draw_roofline(results["roofline"], results["machine"])
        for name_, figure in drawn.items():
            for kind in ("svg", "png"):
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(folder / f"{name_}.{kind}", dpi=130, metadata=metadata)
            print(folder / f"{name_}.svg")


def draw_latency(results: dict[str, Any]) -> "Figure":
    """A panel for each network (rows), batch size and number of threads (columns); every engine against sparsity."""
    from matplotlib.figure import Figure

    panels = dict(grouped(results["cells"]))
    nets = [n for n in NETS if any(k[0] == n for k in panels)]
    settings = sorted({k[1:] for k in panels})
    figure = Figure(figsize=(2.2 + 2.3 * len(settings), 1.6 + 2.4 * len(nets)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(nets), len(settings), squeeze=False)
    for (i, net), (j, (batch, threads)) in itertools.product(enumerate(nets), enumerate(settings)):
        _latencies(grid[i][j], panels.get((net, batch, threads), []))
        grid[i][j].set_title(
            f"{NETS[net]}, batch {batch}, {threads} thread{'s' * (threads > 1)}", fontsize=9, color=INK, loc="left"
        )
        if j == 0:
            grid[i][j].set_ylabel("ms per batch, log scale", color=INK)
        if i == len(nets) - 1:
            grid[i][j].set_xlabel("sparsity", color=INK)
    known = {
        text: mark for row in grid for ax in row for mark, text in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=6, frameon=False, labelcolor=INK)
    figure.suptitle("Time of one batch, float32: lower is better", x=0.01, ha="left", fontsize=13, color=INK)
    return figure


def _latencies(ax: "Axes", cells: list[Cell]) -> None:
    for engine in reversed(TITLES):
        rows = [(i, c["engines"][engine]) for i, c in enumerate(cells) if engine in c["engines"]]
        if not rows:
            continue
        x, y = [i for i, _ in rows], [r["us"] / 1e3 for _, r in rows]
        colour, mark = LOOKS[engine]
        mine = engine == "ours"
        ax.plot(
            x, y, color=colour, marker=mark, markersize=10 if mine else 5, linewidth=2.2 if mine else 1.2,
            markeredgecolor="white", markeredgewidth=0.5, label=TITLES[engine], zorder=3 if mine else 2,
        )  # fmt: skip
        ax.fill_between(
            x,
            [r["low"] / 1e3 for _, r in rows],
            [r["high"] / 1e3 for _, r in rows],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set_xticks(range(len(cells)), [f"{100 * c['sparsity']:g} %" for c in cells])
    ax.set_xlim(-0.3, max(len(cells), 2) - 0.7)
    _plain(ax)


def draw_roofline(found: dict[str, Any], machine: dict[str, Any]) -> "Figure":
    """A panel for each network and batch size: every layer at every sparsity, under the machine's roofs."""
    from matplotlib.figure import Figure

    runs, peaks = found["runs"], found["peaks"]
    panels = sorted({(list(NETS).index(r["net"]), r["batch"]) for r in runs})
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.9 + 3.4 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    colours = {0.9: "#56b4e9", 0.95: "#0072b2", 0.98: "#e69f00", 0.99: "#d55e00"}
    for ax, (i, batch) in zip(grid, panels, strict=False):
        net = list(NETS)[i]
        shown = sorted((r for r in runs if (r["net"], r["batch"]) == (net, batch)), key=lambda r: r["sparsity"])
        for run in shown:
            x, y = [r["intensity"] for r in run["layers"]], [r["gflops"] for r in run["layers"]]
            ax.scatter(
                x, y, s=22, color=colours.get(run["sparsity"], GREY), label=f"{100 * run['sparsity']:g} %", zorder=3
            )
        intensities = [r["intensity"] for run in shown for r in run["layers"]]
        ends = [min(intensities) / 2, max(intensities) * 4]
        _roofs(ax, peaks, *ends)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(*ends)
        ax.set_ylim(top=1.6 * peaks["fma_registers"])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda v, _: f"{v:g}")
            axis.set_minor_formatter(lambda v, _: "")
        ax.set_title(f"{NETS[net]}, batch {batch}, one thread", fontsize=9, color=INK, loc="left")
        ax.set_xlabel("useful operations per byte of weights, input and output", color=INK)
        ax.set_ylabel("GFLOP/s of weights alive", color=INK)
        ax.legend(frameon=False, fontsize=8, title="sparsity", title_fontsize=8, loc="lower right", labelcolor=INK)
        _plain(ax)
    figure.suptitle(f"Each layer under the roofs of {machine['cpu']}", x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _roofs(ax: "Axes", peaks: dict[str, float], low: float, high: float) -> None:
    """Lines that no layer can pass, from one intensity to another."""
    top, half = peaks["fma_registers"], peaks["fma_L1_crossing"]
    notes = {"color": GREY, "fontsize": 8, "textcoords": "offset points"}
    for level in ("L1", "L2", "L3"):
        knee = max(low, top / peaks[f"read_{level}"])
        ax.plot(
            [low, knee, high],
            [min(top, x * peaks[f"read_{level}"]) for x in (low, knee, high)],
            color=GREY,
            linewidth=1,
        )
        if knee > low:
            middle = (low * knee) ** 0.5
            ax.annotate(level, (middle, middle * peaks[f"read_{level}"]), xytext=(-3, 2), ha="right", **notes)
    ax.axhline(half, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate("one operand from L1, across lines", (high, half), xytext=(-2, 2), ha="right", **notes)
    ax.annotate("multiply-adds in registers", (high, top), xytext=(-2, 2), ha="right", **notes)


def _plain(ax: "Axes") -> None:
    ax.grid(axis="y", color=LIGHT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK, length=3)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
