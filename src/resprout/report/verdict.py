"""What a comparison says, in a sentence: who wins where the interval excludes zero, and never more."""

from __future__ import annotations

from collections.abc import Sequence

from ..compare.table import Line
from .gather import asked, listed, signed


def headline(lines: Sequence[Line], baseline: str) -> str:
    """Return the verdict on the recipes: who beats the baseline, and who falls behind it, at which budgets.

    Args:
        lines: the summary, controls included (they are left out here).
        baseline: the arm that the others are compared with.
    """
    judged = [line for line in lines if line.kind == "recipe" and line.against is not None]
    if not judged:
        return f"{baseline} on its own: nothing to compare it with yet."
    wins, losses = (_by_arm(judged, verdict) for verdict in ("win", "loss"))
    if not wins and not losses:
        which = (
            f"{judged[0].arm} and {baseline}" if len({line.arm for line in judged}) == 1 else f"any arm and {baseline}"
        )
        return f"No difference is shown between {which}."
    won = _clauses(wins, f"beats {baseline}", f"beat {baseline}")
    lost = _clauses(losses, f"falls behind {baseline}", f"fall behind {baseline}")
    if not wins:
        others = len({line.arm for line in judged}) > len(losses) or len(judged) > len(_flat(losses))
        won = f"No arm is shown to beat {baseline}" if others else ""
    sentence = "; ".join(part for part in (won, lost) if part) + "."
    return sentence


def caveats(lines: Sequence[Line], baseline: str) -> list[str]:
    """Return what must be said beside the headline: few seeds, unequal training, controls that did as well."""
    judged = [line for line in lines if line.against is not None]
    found = []
    seeds = [line.against.seeds for line in judged if line.against]
    if seeds and min(seeds) == 1:
        found.append(
            "With one seed the intervals are over test samples alone: they say nothing of what another seed would bring."
        )
    elif seeds and min(seeds) < 3:
        found.append(
            "With two seeds the intervals are very wide: that a difference is not shown does not mean that there is none."
        )
    for line in judged:
        if line.kind == "recipe" and line.note and line.against and line.against.verdict != "no difference shown":
            found.append(f"Unequal: {line.arm} at {asked(line.asked)} – {line.note}.")
    winning = _by_arm([line for line in judged if line.kind == "control"], "win")
    if winning:
        found.append(f"Of the controls, {_clauses(winning, f'beats {baseline}', f'beat {baseline}')}.")
    return found


def _by_arm(lines: Sequence[Line], verdict: str) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line.against is not None and line.against.verdict == verdict:
            found.setdefault(line.arm, []).append(line)
    return found


def _flat(found: dict[str, list[Line]]) -> list[Line]:
    return [line for lines in found.values() for line in lines]


def _clauses(found: dict[str, list[Line]], one: str, several: str) -> str:
    """ "a beats x at 95 % and 98 % (+1.2 and +3.4 points)"; many arms are told without their numbers."""
    if not found:
        return ""
    if len(found) <= 2:
        return "; ".join(f"{arm} {one} at {_places(lines)}" for arm, lines in found.items())
    budgets = list(dict.fromkeys(asked(line.asked) for line in _flat(found)))
    where = f"at {budgets[0]}" if len(budgets) == 1 else "at one budget or more"
    return f"{listed(list(found))} {several} {where}"


def _places(lines: Sequence[Line]) -> str:
    gaps = [signed(line.against.mean, 1) for line in lines if line.against]
    if len(gaps) > 3:
        return f"{len(gaps)} budgets ({gaps[0]} to {gaps[-1]} points)"
    budgets = listed([asked(line.asked) for line in lines])
    return f"{budgets} ({listed(gaps)} points)"
