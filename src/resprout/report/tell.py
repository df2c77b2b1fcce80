"""The story of a comparison: what it says, its figures and tables, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..compare.arms import CONTROLS, DENSE
from ..compare.statistics import Difference, spread
from ..compare.table import Line, against
from . import accuracy, classes, journey, layers
from .figure import Figure
from .gather import Gathered, asked, fraction, interval, listed, percent
from .parts import Code, Facts, Group, Panel, Part, Section, Story, Table, Text
from .verdict import caveats, headline

TOGETHER = 14  # differences that are drawn in one figure
Draw = Callable[[str, str], Sequence[Figure]]


def story(gathered: Gathered) -> Story:
    """Return the story of a comparison."""
    g, settings = gathered, gathered.comparison.cells[0].settings
    name = f"{_last(settings.model)} on {_last(settings.task)}"
    parts: list[Part] = [_facts(g)]
    if any(line.kind == "recipe" for line in g.lines):
        figures = {("sparsity",): (accuracy.over_sparsity(g),), ("bytes",): (accuracy.over_bytes(g),)}
        parts.append(Panel((Group("", "", figures),), {f"{g.metric} over": ("sparsity", "bytes")}))
    sections = [_differences(g), _closer(g), _training(g), _table(g), _controls(g), _unfinished(g), _repeat(g)]
    return Story(
        "comparison", name, headline(g.lines, g.baseline), caveats(g.lines, g.baseline), parts,
        [s for s in sections if s is not None], place=g.comparison.folder.resolve().name,
    )  # fmt: skip


def _last(name: str) -> str:
    return name.rpartition(":")[2]


def _facts(g: Gathered) -> Facts:
    tests = [float(r["test"]) for _, r in g.dense]
    seeds = len({c.seed for c in g.rows})
    steps = [int(r["steps"]) for r in g.rows.values() if r["kind"] == "recipe"]
    pairs = [("dense network, test", percent(sum(tests) / len(tests)))] if tests else []
    pairs += [("weights that can go", f"{g.total:,}")] if g.total else []
    pairs += [("arms", f"{len(g.recipes)}" + (f" + {len(g.controls)} controls" if g.controls else ""))]
    pairs += [("budgets asked", listed([asked(b) for b in g.budgets], 6))]
    pairs += [("seeds", f"{seeds}")]
    pairs += [("steps of each arm", _range(steps))] if steps else []
    pairs += [("time, all cells", _time(sum(float(r["seconds"]) for r in g.rows.values())))]
    return Facts(pairs, big=True)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _differences(g: Gathered) -> Section | None:
    """Every recipe against the baseline."""
    rows = [(x.arm, x.asked, x.against) for x in g.lines if x.kind == "recipe" and x.against is not None]
    if not rows:
        return None
    single = any(d.seeds == 1 for *_, d in rows)
    lead = (
        "The same seeds with both arms, and the differences of their test accuracies. A dot is the mean, its bar the 95 % "
        f"bootstrap interval over {'test samples' if single else 'seeds'}. A win or a loss is called only where the bar "
        f"misses zero. There are {len(rows)} such bars, not corrected for their number: where nothing differs, one in "
        "twenty would miss zero by chance."
    )
    panel = _intervals(rows, f"Difference to {g.baseline}", ("worse", "better"))
    return Section("Chance?", f"Is it more than chance? Each arm against {g.baseline}", (panel,), lead)


def _intervals(rows: Sequence[tuple[str, str, Difference]], title: str, labels: tuple[str, str]) -> Panel:
    """Differences with their intervals: all of them, or of many those of one budget at a time."""

    def drawn(mine: Sequence[tuple[str, str, Difference]], where: str = "") -> tuple[Figure]:
        words = f"{sum(d.verdict != 'no difference shown' for *_, d in mine)} of {len(mine)} intervals exclude zero."
        return (accuracy.intervals(title + where, mine, words, labels),)

    budgets = list(dict.fromkeys(b for _, b, _ in rows))
    if len(rows) <= TOGETHER or len(budgets) == 1:
        return Panel((Group("", "", {(): drawn(rows)}),))
    figures = {(asked(b),): drawn([row for row in rows if row[1] == b], f" at {asked(b)}") for b in budgets}
    return Panel((Group("", "", figures),), {"budget": [asked(b) for b in budgets]})


def _each(g: Gathered, draw: Draw) -> dict[tuple[str, str], Sequence[Figure]]:
    """A drawing for every recipe and budget that has finished; first, of those that regrow, what gains most."""
    gains = {(line.arm, line.asked): line.against.mean if line.against else 0.0 for line in g.lines}
    pairs = [(a, b) for b in g.budgets for a in g.recipes if g.of(a, b)]
    pairs.sort(key=lambda pair: (not _regrows(g, *pair), -gains.get(pair, 0.0)))
    return {(arm, asked(budget)): draw(arm, budget) for arm, budget in pairs}


def _regrows(g: Gathered, arm: str, budget: str) -> bool:
    """Whether its networks end with more weights than their stump had, by a twentieth at least."""
    ways = [d for c, _ in g.of(arm, budget) if "stump" in (d := g.detail(c)) and d.get("path")]
    return any(1 - d["path"][-1][1] > 1.05 * (1 - d["stump"]["sparsity"]) for d in ways)


def _closer(g: Gathered) -> Section | None:
    """One arm at one budget: its way, its layers, its classes."""
    if not any(g.of(a, b) for a in g.recipes for b in g.budgets):
        return None
    read = classes.Classes(g)
    groups = (
        Group("Cliff, stump and regrowth", "", _each(g, lambda a, b: (journey.path(g, a, b),))),
        Group("Layer by layer", "", _each(g, lambda a, b: (layers.densities(g, a, b), layers.damage(g, a, b))), across=2),
        Group("Class by class", "", _each(g, lambda a, b: (classes.recalls(read, a, b),))),
        Group(
            "What is mistaken for what",
            "Share of each class (row) that was taken for another (column); what is right, the diagonal, is left out. "
            "One scale for all of them; the numbers are counts.",
            _each(g, lambda a, b: classes.confusions(read, a, b)), across=3,
        ),
    )  # fmt: skip
    choices = {"arm": g.recipes, "budget": [asked(b) for b in g.budgets]}
    shown = [group for group in groups if group.slots]
    return Section(
        "Inside",
        "One arm, from the inside",
        (Panel(shown, choices),),
        "Choose an arm and a budget; all figures follow.",
    )


def _training(g: Gathered) -> Section | None:
    figures = {(asked(b),): (journey.losses(g, b), journey.validations(g, b)) for b in g.budgets}
    figures = {key: pair for key, pair in figures.items() if any(f.traces for f in pair)}
    if not figures:
        return None
    panel = Panel((Group("", "", figures, across=2),), {"budget": [b for (b,) in figures]})
    return Section("Training", "Training", (panel,), "What every arm went through within its budget of steps.")


def _accuracy(pair: tuple[float, float]) -> str:
    mean, deviation = pair
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}" if deviation == deviation else f"{100 * mean:.2f}"


COLUMNS = ("validation %", "sparsity", "bytes", "steps", "time", "seeds")
VERDICTS = {"win": "better", "loss": "worse", "no difference shown": "not shown"}


def _row(line: Line, gap: Difference | None, first: str = "") -> list[str]:
    """The cells of a line; `gap` against what, or `first` in its place."""
    steps = _range(line.steps) + (f" + {line.searched:,} searched" if line.searched else "")
    judged = [interval(gap), VERDICTS[gap.verdict]] if gap else [first, ""]
    return [
        line.arm, asked(line.asked), _accuracy(line.test), *judged, _accuracy(line.validation), percent(line.sparsity),
        f"{line.bytes:,.0f}", steps, _time(line.seconds), str(line.seeds), line.note,
    ]  # fmt: skip


def _listing(caption: str, rows: list[list[str]], marks: list[str], against: str, note: str) -> Table:
    """A table of lines, without its last column where nothing is noted."""
    columns = ["arm", "asked", "test %", f"against {against}", "verdict", *COLUMNS, "what is unequal"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    starts = [i > 0 and row[1] != rows[i - 1][1] for i, row in enumerate(rows)]
    marks = [f"{mark} first".strip() if start else mark for mark, start in zip(marks, starts, strict=True)]
    return Table(caption, columns, rows, note, marks, words=2, right=int(columns[-1] == "what is unequal"))


def _mark(gap: Difference | None) -> str:
    return gap.verdict if gap and gap.verdict in ("win", "loss") else ""


def _table(g: Gathered) -> Section:
    """All recipes, dense first."""
    rows: list[list[str]] = []
    marks: list[str] = []
    if g.dense:
        found = [r for _, r in g.dense]
        steps = [int(r["steps"]) for r in found]
        tests, seen = (spread([float(r[n]) for r in found]) for n in ("test", "validation"))
        weight, seconds = (sum(float(r[n]) for r in found) / len(found) for n in ("bytes", "seconds"))
        dense = Line(
            DENSE, "", "dense", len(found), tests, seen, 0.0, weight, (min(steps), max(steps)), 0, seconds, None, ""
        )
        rows.append(_row(dense, None))
        marks.append("reference")
    for line in g.lines:
        if line.kind == "recipe":
            rows.append(_row(line, line.against, "baseline" if line.arm == g.baseline else ""))
            marks.append(_mark(line.against))
    honest = all(r.get("selected_on") != "test" for r in g.rows.values())
    chosen = "Networks are chosen on validation data and tested once." if honest else "SOME WERE CHOSEN ON TEST DATA."
    note = (
        f"Means ± one standard deviation over seeds. {chosen} Steps are those of "
        "the optimizer, fewest to most of the seeds, and time is the wall time of a cell, its evaluation included. "
        f"Differences are points of test {g.metric} against {g.baseline} with a 95 % interval; “not shown” is where it "
        "holds zero."
    )
    return Section("Numbers", "All numbers", (_listing("Every arm at every budget", rows, marks, g.baseline, note),))


def _controls(g: Gathered) -> Section | None:
    """Each control against the arm whose result it takes, and against the baseline."""
    lines = {(x.arm, x.asked): x for x in g.lines if x.kind == "control"}
    if not lines:
        return None
    rows, marks, differences = [], [], []
    for (label, budget), line in lines.items():
        mine = {c.seed: (c, r) for c, r in g.of(label, budget)}
        of = next(c.arm.of.label for c, _ in mine.values() if c.arm and c.arm.of)
        gap = against(mine, {c.seed: (c, r) for c, r in g.of(of, budget)}, g.comparison.folder)
        rows.append(_row(line, gap))
        marks.append(_mark(gap))
        if gap:
            differences.append((label, budget, gap))
    names = {name: CONTROLS[name] for name in CONTROLS if any(label.startswith(f"{name}(") for label, _ in lines)}
    parts: list[Part] = [Facts([(name, f"{text}.") for name, text in names.items()])]
    if differences:
        title = "Difference of each control to the arm that it is of"
        parts.append(_intervals(differences, title, ("arm better", "control better")))
    note = f"Points of test {g.metric} against the arm in brackets, with a 95 % interval: “better” is where the control is."
    parts.append(_listing("Every control at every budget", rows, marks, "its arm", note))
    lead = (
        "A control takes what an arm has found and starts again from new random weights. It trains as long as the dense "
        "network and the arm together, so that its own line has more steps. A control that does as well says that "
        "the weights, or the places, or the search were not what counted."
    )
    return Section("Controls", "Controls", parts, lead)


def _unfinished(g: Gathered) -> Section | None:
    """Cells that failed, and those that have not run."""
    failed = g.comparison.failed
    waiting = [c for c in g.comparison.cells if c not in g.rows and c.title not in failed]
    parts: list[Part] = []
    if failed:
        rows = [[title, " ".join(why.split())] for title, why in failed.items()]
        parts.append(Table("Cells that failed", ("cell", "why"), rows, "The same command runs them again.", words=2))
    if waiting:
        titles = [c.title for c in waiting]
        shown = "; ".join(titles[:40]) + (f"; and {len(titles) - 40} more" if len(titles) > 40 else "")
        parts.append(Text(f"{len(waiting)} of {len(g.comparison.cells)} cells have not run: {shown}."))
    return Section("Missing", "What is missing", parts, "No line above rests on these cells.") if parts else None


def _repeat(g: Gathered) -> Section:
    """The command, the configuration, the machine."""
    rows, cells = list(g.rows.values()), g.comparison.cells
    s = cells[0].settings
    facts = [
        ("task", s.task), ("data", s.about), ("model", s.model), ("weights", s.weights or "trained here, one network a seed"),
        ("training of every arm", f"{s.epochs:g} epochs"), ("training of the dense network", f"{s.dense_epochs:g} epochs"),
        ("what is cut", s.granularity), ("weights in the file", s.values), ("precision", _seen(r.get("precision") for r in rows)),
        ("budgets", ", ".join(g.budgets)), ("seeds", ", ".join(map(str, sorted({c.seed for c in cells})))),
        ("baseline", g.baseline), ("chosen on", _seen(r.get("selected_on") for r in rows)),
        ("machine", _seen(r.get("machine") for r in rows)), ("threads of a cell", _seen(r.get("threads") for r in rows)),
        ("torch", _seen(r.get("torch") for r in rows)), ("cells", f"{len(rows)} of {len(cells)} finished"),
        ("wall time of all cells, added up", _time(sum(float(r["seconds"]) for r in rows))),
    ]  # fmt: skip
    code = Code("Command", g.command) if g.command else Code("From Python", _call(g))
    return Section("Repeat", "To repeat it", (code, Facts(facts)))


def _seen(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None)) or "–"


def _call(g: Gathered) -> str:
    """The call of the library that asks for the same."""
    s = g.comparison.cells[0].settings
    arms = list(dict.fromkeys(c.arm.label for c in g.comparison.cells if c.arm))
    fractions = [b for b in g.budgets if fraction(b) is not None]
    given: dict[str, Any] = {"sparsity": [float(b) for b in fractions]} if fractions else {}
    given |= {"budget": others} if (others := [b for b in g.budgets if b not in fractions]) else {}
    given |= {"task": s.task, "model": s.model, "data": s.data, "weights": s.weights, "epochs": s.epochs}
    given |= {
        "dense_epochs": s.dense_epochs,
        "seeds": len({c.seed for c in g.comparison.cells}),
        "baseline": g.baseline,
    }
    given |= {"granularity": s.granularity, "values": s.values, "precision": s.precision}
    inner = "".join(f"    {name}={value!r},\n" for name, value in given.items() if value is not None)
    return f"from resprout.compare import compare\n\ncompare(\n    {arms!r},\n{inner})"
