"""What the audits of a run found, side by side for its networks: as tables, and as a story of the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figure import Figure, lines
from .parts import Code, Facts, Group, Panel, Part, Section, Story, Table, Text
from .studied import cell

if TYPE_CHECKING:
    from ..fit import Arrival, Result

Titled = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def networks(result: Result) -> dict[str, Arrival]:
    """Return label -> network of every one that was audited: dense, one-way, and the run's own."""
    found = {"dense": result.dense}
    found |= {f"one-way to {a.budget}": a for a in result.control}
    found |= {f"to {a.budget}": a for a in result.frontier}
    return {label: a for label, a in found.items() if a.audits}


def tables(result: Result) -> Iterator[Titled]:
    """Yield (title, columns, rows) for every audit: a row for each number, a column for each network."""
    known = networks(result)
    for name in dict.fromkeys(name for a in known.values() for name in a.audits):
        facts = {label: a.audits.get(name, {}) for label, a in known.items()}
        shown = dict.fromkeys(k for f in facts.values() for k, v in f.items() if k != "asked" and not _rows(v))
        asked = next(str(f["asked"]) for f in facts.values() if f)
        yield f"audit {asked}", ["", *facts], [[k, *(_cell(f.get(k)) for f in facts.values())] for k in shown]


def holds(file: Path) -> bool:
    """Whether a `result.json` holds audits."""
    try:
        return bool(json.loads(file.read_text())["dense"].get("audits"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def story(file: Path) -> Story:
    """Return the story of a `result.json`.

    Raises:
        CheckpointError: it is damaged, or holds no audit.
    """
    from ..core.errors import CheckpointError
    from ..fit import Result

    result = Result.read(file.parent)
    known = networks(result)
    if not known:
        raise CheckpointError(f"{file} holds no audit: run the same fit again with audit=..., or --audit")
    sections = []
    for title, columns, rows in tables(result):
        name = title.removeprefix("audit ").partition("(")[0].lower()
        parts: list[Part] = [Table(title, columns, rows)]
        parts += _figures(name, known)
        for label, arrival in known.items():
            details = {k: v for k, v in arrival.audits.get(name, {}).items() if _rows(v)}
            parts += [_table(f"{label}: {k}", v) for k, v in details.items()]
        sections.append(Section(name, name.capitalize(), parts))
    accuracies = ", ".join(f"{label} {100 * a.test:.2f} %" for label, a in known.items())
    facts = Facts([(label, f"{100 * a.test:.2f} %") for label, a in known.items()], big=True)
    more = Text(
        f"Test {result.metric} of the networks that were audited; all questions are asked of test data, once, in the end."
    )
    config = Code("Configuration", json.dumps(result.config, indent=1))
    return Story(
        "run", file.resolve().parent.name, f"Test {result.metric}: {accuracies}.", (), [facts, more, config], sections
    )


def _figures(name: str, known: Mapping[str, Arrival]) -> list[Part]:
    """The reliability diagram of the audit "calibration"; the others are told by their tables."""
    if name != "calibration":
        return []
    ideal = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    series: dict[str, Mapping[str, Sequence[Any]]] = {"as confident as right": ideal}
    for label, arrival in known.items():
        bins = arrival.audits.get(name, {}).get("bins", [])
        series[label] = {k: [row[v] for row in bins] for k, v in (("x", "confidence"), ("y", "accuracy"))}
    words = "Accuracy over confidence, bin by bin: below the diagonal a network is surer than it is right."
    figure: Figure = lines("Reliability", series, "confidence", "accuracy", words=words)
    return [Panel((Group("", "", {(): (figure,)}),))]


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    words = sum(isinstance(rows[0].get(name), str) for name in names[:1])
    return Table(title, names, [[_cell(row.get(n)) for n in names] for row in rows], words=max(1, words), folded=True)


def _rows(value: Any) -> bool:
    """Whether a fact is a table."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _cell(value: Any) -> str:
    """A number with four digits, or an interval of two."""
    if isinstance(value, list):
        return "[" + ", ".join(cell(v) for v in value) + "]"
    return cell(value)
