"""The journey on the screen: a row for every step as it ends, above a bar for the step under way."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

WIDTHS = {"step": 5, "what": 34, "sparsity": 10, "weights alive": 14, "bytes": 11, "validation": 11, "seconds": 9}


class Journey:
    """What `Run` reports, as a table that grows; use as a context manager, and call `journey(event, facts)`.

    Args:
        console: where to print.
        quiet: print nothing (on all ranks but the first).
    """

    def __init__(self, console: Console, quiet: bool = False):
        self.console, self.quiet = console, quiet
        self.rows = self._numbered = self._trained = 0
        self._sparsity = 0.0
        self._dense: int | None = None  # optimizer steps up to the dense network
        self._bar = Progress(
            TextColumn("      {task.description}"),
            BarColumn(32),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}  loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._shown = 0.0

    def __enter__(self) -> Journey:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Take one report of the run: "train" moves the bar, "step" adds a row."""
        if self.quiet:
            return
        if event == "train":
            self._train(facts)
        elif event == "look":
            self._look(facts)
        elif event == "step":
            self._hide()
            self._row(facts)

    def _train(self, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1 and facts["step"] < facts["steps"]:
            return  # thousands of steps a second need no thousand redraws
        self._shown = now
        if self._task is None:
            self._task = self._bar.add_task("training", total=facts["steps"], loss=facts["loss"])
        self._bar.update(self._task, completed=facts["step"], total=facts["steps"], loss=facts["loss"])
        if facts["step"] == facts["steps"]:
            self._hide()

    def _hide(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _look(self, facts: dict[str, Any]) -> None:
        """A look within a training whose masks move: a row of its own, without a number."""
        if facts["sparsity"] != self._sparsity:
            self._cells("", facts | {"what": f"  {facts['trained'] - self._trained:,} steps"}, "")

    def _row(self, facts: dict[str, Any]) -> None:
        if facts.get("step") == "Mark" and facts.get("name") == "dense":
            if self._dense is not None:  # a second walk from the same dense network
                self.console.print("       the control: one way, as many training steps", style="bold")
                self._numbered, self._trained, self._sparsity = 0, self._dense, 0.0
            self._dense = facts.get("trained", 0)
        self._numbered += 1
        steps = facts.get("trained", 0) - self._trained
        what = describe(facts) + (f", {steps:,} steps" if facts.get("step") == "Train" else "")
        style = "dim" if facts.get("resumed") else "bold green" if facts.get("step") == "Arrive" else ""
        self._cells(str(self._numbered), facts | {"what": what}, style)
        self._trained = facts.get("trained", self._trained)

    def _cells(self, number: str, facts: dict[str, Any], style: str) -> None:
        if self.rows == 0:
            self._print({n: n for n in WIDTHS}, "bold")
        self.rows += 1
        metric, alive, sparsity = facts.get("validation"), facts.get("alive"), facts.get("sparsity")
        size = facts.get("bytes")
        seconds = "kept" if facts.get("resumed") else f"{facts['seconds']:.1f}" if "seconds" in facts else ""
        cells = {
            "step": number,
            "what": facts["what"],
            "sparsity": "" if sparsity is None else f"{100 * sparsity:.2f} %",
            "weights alive": "" if alive is None else f"{alive:,}",
            "bytes": "" if size is None else f"{size:,}",
            "validation": "" if metric is None else f"{100 * metric:.2f} %",
            "seconds": seconds,
        }
        self._print(cells, style)
        self._sparsity = self._sparsity if sparsity is None else sparsity

    def _print(self, cells: dict[str, str], style: str) -> None:
        line = Text(style=style)
        for name, width in WIDTHS.items():
            if name == "what":
                line.append(f"  {cells[name]:<{width}.{width}}")
            else:
                line.append(f"{cells[name]:>{width}}")
        self.console.print(line, soft_wrap=True)


def describe(facts: dict[str, Any]) -> str:
    """Return a step in a few words."""
    step = str(facts.get("step", "?"))
    if "says" in facts:  # a step of a recipe's own, in its words
        return str(facts["says"])
    if step in ("Prune", "Regrow", "Meet"):
        moved = ", ".join(f"{sign}{facts[k]:,}" for k, sign in (("died", "−"), ("reborn", "+")) if facts.get(k))
        asked = facts.get("asked") or facts.get("budget") or "the budget"
        if step == "Meet" and not moved and "keep" in facts:
            return f"plan {asked}: keep {facts['keep']:,}"
        return f"{'meet ' + str(asked) if step == 'Meet' else step.lower()}  {moved}".rstrip()
    if step == "Search" and "cliff" in facts:
        cliff = facts["cliff"]
        return "one-way curve: no cliff found" if cliff is None else f"one-way curve: cliff at {100 * cliff:.2f} %"
    if step == "Audit":
        return f"audit of {facts.get('of', '?')}"
    named = {"Arrive": ("arrived at", "budget"), "Mark": ("keep as", "name"), "Rewind": ("rewind to", "to")}
    if step in named:
        verb, key = named[step]
        return f"{verb} {facts.get(key, '?')}"
    return step.lower()
