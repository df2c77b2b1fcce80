"""The page: comparisons and studies as one HTML file that needs no network; `write_page` is all that others call.

Figures are drawn by plotly.js, which the plotly package brings along and which is written into the file once. The page's policy
allows exactly the two scripts that it is written with and no request: text of users can do nothing but be read.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..core import store
from ..core.errors import CheckpointError, ResproutError
from . import audited, studied, tell
from .figure import Figure
from .gather import Gathered
from .parts import Code, Facts, Group, Panel, Section, Story, Table, Text

DEPTH = 4  # folders below the given one where comparisons and studies are looked for


def write_page(*folders: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML file of what lies in folders, and return it.

    Args:
        folders: of a comparison, of a study, or with some of them below.
        out: the file; default `index.html` in the folder, if it is one.

    Raises:
        CheckpointError: there is no comparison and no study, or a damaged one.
        ResproutError: plotly or jinja2 is not installed; or several folders and no `out`.
    """
    if out is None and len(folders) != 1:
        raise ResproutError("several folders make one page: say where with out=, or --out page.html")
    stories = [s for folder in folders for s in read(Path(folder))]
    stories.sort(key=lambda s: s.kind)  # comparisons first, as they come
    names = [s.name for s in stories]
    stories = [dataclasses.replace(s, name=f"{s.name}, {s.place}") if names.count(s.name) > 1 else s for s in stories]
    file = Path(out) if out is not None else Path(folders[0]) / "index.html"
    store.write(file, render(stories).encode())
    return file


def read(folder: Path) -> list[Story]:
    """Return the stories in a folder, and in those below it.

    Raises:
        CheckpointError: there is none, or one is damaged.
    """
    found = list(_found(folder, DEPTH))
    if not found:
        raise CheckpointError(
            f"{folder} holds no compare.json of a comparison, no finding.json of a study and no result.json of a run"
        )
    return [_story(file) for file in found]


def _story(file: Path) -> Story:
    """What a file tells: a comparison, a study, or the audits of a run."""
    if file.name == "compare.json":
        return tell.story(Gathered.read(file.parent))
    return audited.story(file) if file.name == "result.json" else studied.story(file)


def _found(folder: Path, depth: int) -> Iterator[Path]:
    """The files that say what a folder is, from the top; what lies in a comparison or a study is its own affair."""
    for name in ("compare.json", "finding.json", "result.json"):
        if (folder / name).is_file() and (name != "result.json" or audited.holds(folder / name)):
            yield folder / name
            return
    if depth and folder.is_dir():
        for below in sorted(f for f in folder.iterdir() if f.is_dir() and not f.is_symlink()):
            yield from _found(below, depth - 1)


def render(stories: Sequence[Story]) -> str:
    """Return the page.

    Raises:
        ResproutError: plotly or jinja2 is not installed.
    """
    try:
        import plotly
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ResproutError(f"the page needs plotly and jinja2 ({error}): pip install 'resprout[report]'") from error
    scripts = [_script(get_plotlyjs()), _script(_file("page.js"))]
    figures: dict[str, Any] = {}
    for number, panel in enumerate(_panels(stories)):
        figures[f"p{number}"] = _data(panel)
    names = {id(panel): f"p{number}" for number, panel in enumerate(_panels(stories))}
    kinds = {kind: kind.__name__.lower() for kind in (Panel, Table, Code, Facts, Text)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["tied"] = lambda text: text.replace(" %", "\u00a0%")  # no line begins with a percent sign
    return environment.from_string(_file("page.html")).render(
        stories=stories, title=_title(stories), style=Markup(_file("page.css")), scripts=[Markup(s) for s in scripts],
        hashes=" ".join(f"'sha256-{_hash(s)}'" for s in scripts), data=Markup(_json(figures)),
        kind=lambda part: kinds[type(part)], name=lambda panel: names[id(panel)], initial=_initial,
        drawn=f"Python {platform.python_version()}, plotly {plotly.__version__}",
    )  # fmt: skip


def _file(name: str) -> str:
    return (resources.files("resprout.report") / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """A script as it may stand in a page; the page's newlines are those of the hash."""
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _title(stories: Sequence[Story]) -> str:
    return stories[0].name if len(stories) == 1 else "Comparisons and studies"


def _panels(stories: Sequence[Story]) -> Iterator[Panel]:
    for story in stories:
        sections: Sequence[Section] = story.sections
        for part in (*story.parts, *(part for section in sections for part in section.parts)):
            if isinstance(part, Panel):
                yield part


def _data(panel: Panel) -> dict[str, Any]:
    """What the page's script needs of a panel: for each group the figures by their key."""
    groups = [{_key(key): [_figure(f) for f in figures] for key, figures in g.figures.items()} for g in panel.groups]
    return {"choices": list(panel.choices), "groups": groups}


def _initial(panel: Panel, group: Group) -> Sequence[Figure | None]:
    """The figures that a group shows first, as many as it has places."""
    shown = list(group.figures.get(panel.first, ()))
    return shown + [None] * (group.slots - len(shown))


def _key(key: Sequence[str]) -> str:
    return json.dumps(list(key), separators=(",", ":"), ensure_ascii=False)


def _figure(figure: Figure) -> dict[str, Any]:
    return {f.name: jsonable(getattr(figure, f.name)) for f in dataclasses.fields(Figure)}


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it: numbers with six digits, none that is not finite."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None else str(value)


def _json(value: Any) -> str:
    """JSON that ends no script: no character of it can begin a tag."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
