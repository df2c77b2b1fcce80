"""What a page is made of: sections with figures that switch together, tables, commands; plain data, drawn by `page.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .figure import Figure

Key = tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Figures side by side, and what is said of them.

    Attributes:
        heading: above them; "" for none.
        text: one or two sentences below the heading.
        figures: chosen options -> the figures, as many for every key; `()` is the key where nothing is to be chosen.
        across: how many stand side by side where there is room.
    """

    heading: str
    text: str
    figures: Mapping[Key, Sequence[Figure]]
    across: int = 1

    @property
    def slots(self) -> int:
        """How many figures are seen at a time."""
        return max((len(f) for f in self.figures.values()), default=0)


@dataclass(frozen=True)
class Panel:
    """Groups of figures under one choice, such as the arm and the budget that are looked at.

    Attributes:
        groups: from top to bottom.
        choices: name of a choice -> its options, in the order of the keys; the first key of the first group is shown first.
    """

    groups: Sequence[Group]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def first(self) -> Key:
        """The options that are shown first."""
        return next(iter(self.groups[0].figures))


@dataclass(frozen=True)
class Table:
    """Rows under a caption.

    Attributes:
        caption: what they are.
        columns: their names.
        rows: cells as text or numbers, as many as columns.
        note: below.
        marked: of each row words for its looks: "win", "loss", "reference", "first" (of a group of rows).
        words: how many columns, from the left, are words; the others are numbers, set flush right. `right` as many on the right.
        folded: whether it opens only when asked to.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    marked: Sequence[str] = ()
    words: int = 1
    right: int = 0
    folded: bool = False


@dataclass(frozen=True)
class Code:
    """Something to be copied."""

    label: str
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values, in one row ("big") or as a list."""

    pairs: Sequence[tuple[str, str]]
    big: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is "" or "claim"."""

    text: str
    tone: str = ""


Part = Panel | Table | Code | Facts | Text


@dataclass(frozen=True)
class Section:
    """A heading and what is below it.

    Attributes:
        short: the heading in the list of contents.
        title: the heading.
        parts: from top to bottom.
        lead: a paragraph below the heading.
    """

    short: str
    title: str
    parts: Sequence[Part]
    lead: str = ""


@dataclass(frozen=True)
class Story:
    """One comparison or one study: what it says in a sentence, and its sections.

    Attributes:
        kind: "comparison" or "study".
        name: short, for the list of contents.
        headline: the verdict in one sentence.
        more: further sentences.
        parts: below the headline, before the first section.
        sections: the rest.
        badge: ("yes" | "no" | "open", words), of a study.
        place: the name of its folder.
    """

    kind: str
    name: str
    headline: str
    more: Sequence[str]
    parts: Sequence[Part]
    sections: Sequence[Section]
    badge: tuple[str, str] | None = None
    place: str = ""
