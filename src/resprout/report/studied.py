"""The story of a study: what was claimed, what was found here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..studies._study import Finding
from .parts import Code, Facts, Group, Panel, Part, Story, Table, Text

ROWS = 60  # of a table; the rest is in finding.json
OPEN = 12  # rows up to which a table is open from the start
BADGES = {True: ("yes", "holds here"), False: ("no", "does not hold here"), None: ("open", "not decided here")}


def story(file: Path) -> Story:
    """Return the story of a `finding.json`.

    Raises:
        CheckpointError: it is damaged.
    """
    finding = Finding.read(file)
    facts: dict[str, Any] = json.loads(file.read_text())
    parts: list[Part] = []
    if facts.get("claim"):
        parts.append(Text(f"Claimed: {_sentence(str(facts['claim']))}", "claim"))
    if finding.figures:
        panel = Panel((Group("", "", {(): tuple(finding.figures)}, across=min(2, len(finding.figures))),))
        parts.append(panel)
    parts += [_table(title, rows) for title, rows in finding.tables.items() if rows]
    if facts.get("command"):
        parts.append(Code("Command", str(facts["command"])))
    parts.append(Facts([("configuration", str(facts.get("configuration", "–"))), ("wall time", _time(facts, finding))]))
    name, place = str(facts.get("name", file.parent.name)), file.resolve().parent.name
    return Story("study", name, _sentence(finding.verdict), (), parts, (), BADGES[finding.holds], place)


def _sentence(text: str) -> str:
    """A verdict as a sentence: it begins with a capital and ends with a stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _time(facts: Mapping[str, Any], finding: Finding) -> str:
    return f"{float(facts.get('seconds') or finding.seconds):,.0f} s"


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    words = [name for name in columns if any(isinstance(row.get(name), str) for row in rows)]
    first = next((i for i, name in enumerate(columns) if name not in words), len(columns))
    shown = [[cell(row.get(name)) for name in columns] for row in rows[:ROWS]]
    note = f"The first {ROWS} of {len(rows)} rows; all of them are in finding.json." if len(rows) > ROWS else ""
    return Table(title, columns, shown, note, words=max(1, first), folded=len(shown) > OPEN)


def cell(value: Any) -> str:
    """Return a value of a table as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
