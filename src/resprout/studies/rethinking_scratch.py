"""Was it worth it? What pruning has found, trained again from random weights for as many epochs or as much computation.

Liu, Sun, Zhou, Huang, Darrell: "Rethinking the Value of Network Pruning", ICLR 2019, arXiv:1810.05270. The controls are those
of `compare/control.py`: scratch (E), which gets the epochs of the dense network and of the fine-tuning together; scratch_compute
(B), which gets more of them, by the multiply-adds saved, up to `cap` times; small, all layers narrower alike. Fine-tuning has a
small learning rate, as in the paper.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .. import find
from ..api import prune
from ..compare.arms import Arm, parse
from ..compare.compare import Comparison, compare, plan
from ..compare.engine import execute
from ..compare.here import engine
from ..compare.run import UNEQUAL
from ..compare.statistics import Difference, paired, spread
from ..compare.table import tidy
from ..compare.train import train
from ..core.errors import ResproutError, check_sparsity, nearest
from ..core.kinds import Fidelity
from ..core.run import mix
from ..core.task import Task
from ..report.figure import Figure, bars
from ._kept import kept
from ._study import Finding, Study, Tell, silent

CONTROLS = ("scratch", "scratch_compute")
NAMES = {
    "scratch": "scratch, equal epochs",
    "scratch_compute": "scratch, equal computation",
    "small": "all layers narrower alike",
    "shuffled": "places shuffled",
}
FRESH = 2_000_003  # added to a seed for weights that nothing else was trained from
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RethinkingScratch(Study):
    """Prune and fine-tune, then train what was found from scratch; or ask it of a comparison that is there already.

    Attributes:
        task, model, data, weights: as in `compare`. With `weights` the controls do not make up for the training they had.
        predefined: arms of channels that cut each layer by a given ratio.
        automatic: arms of channels that find each layer's width themselves; they are compared with "small", too.
        unstructured: arms of single weights; they are compared with "shuffled", too.
        ratio: of the weights that leave with their channels (half of the channels of each layer are about three quarters).
        sparsity: of the arms of single weights.
        epochs, dense_epochs, seeds, cap: as in `compare`.
        lottery: learning rates at which a winning ticket's initial weights are compared with new ones under its masks.
        margin: of test accuracy in points, within which scratch counts as a match.
        comparison: folder of a finished comparison, of whose arms it is asked instead.
        arm: one of its arms; default all.
        jobs: cells at a time; 1 runs them in this process.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    predefined: tuple[str, ...] = ("one_way(mode='oneshot', lr=0.01, score=filter_norm, allocate=uniform)",)
    automatic: tuple[str, ...] = ("one_way(mode='oneshot', lr=0.01, score=taylor, allocate=global)",)
    unstructured: tuple[str, ...] = ("one_way(mode='oneshot', lr=0.01, score=magnitude, allocate=global)",)
    ratio: float = 0.75
    sparsity: float = 0.9
    epochs: float = 5
    dense_epochs: float = 10
    seeds: int = 5
    cap: float = 4.0
    lottery: tuple[float, ...] = (0.1, 0.01)
    margin: float = 1.0
    comparison: str | None = None
    arm: str | None = None
    jobs: int = 1
    claim: ClassVar[str] = (
        "Training the pruned architecture from random weights with as much computation is as good as fine-tuning it, where whole "
        "channels were pruned."
    )
    key: ClassVar[str | None] = "rethinking-scratch"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: no arm, an arm that the comparison does not have, or a cell that fails.
        """
        began = time.monotonic()
        if self.comparison is not None:
            rows, structured = self._asked(Path(self.comparison), tell)
            found = self._found(rows, structured, [])
        else:
            if not (*self.predefined, *self.automatic, *self.unstructured):
                raise ResproutError("name an arm in predefined=, automatic= or unstructured=")
            check_sparsity(self.ratio, "ratio")
            wide = self._compared(
                folder / "channels", _part(tell, 0.0, 0.6), "channel", self.predefined, self.automatic
            )
            single = self._compared(folder / "weights", _part(tell, 0.6, 0.9), "weight", self.unstructured, ())
            found = self._found(wide + single, {r["arm"] for r in wide}, self._tickets(folder, _part(tell, 0.9, 1.0)))
        return dataclasses.replace(found, seconds=time.monotonic() - began)

    def _compared(
        self, folder: Path, tell: Tell, granularity: str, plain: Sequence[str], wide: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows of arms and controls at one granularity; `wide` are compared with "small"."""
        if not plain and not wide:
            return []
        channel = granularity == "channel"
        labels = [*plain, *wide, *(f"{c}({a})" for a in (*plain, *wide) for c in CONTROLS)]
        labels += [f"small({a})" for a in wide] + [f"shuffled({a})" for a in plain if not channel]
        made = compare(
            labels, sparsity=[self.ratio if channel else self.sparsity], task=self.task, model=self.model, data=self.data,
            weights=self.weights, epochs=self.epochs, dense_epochs=0 if self.weights else self.dense_epochs, seeds=self.seeds,
            baseline=labels[0], granularity=granularity, cap=self.cap, engine=engine(self.jobs), out=folder,
            report=lambda now: tell(f"arms of {granularity}s", now["done"] / now["total"]),
        )  # fmt: skip
        return _whole(made.rows, made.failed)

    def _asked(self, folder: Path, tell: Tell) -> tuple[list[dict[str, Any]], set[str]]:
        """The rows of a comparison that is there, with the controls it lacks; and its arms, if they are of channels."""
        made = Comparison.read(folder)
        known = {c.arm.label: c.arm for c in made.cells if c.arm and not c.arm.control}
        if self.arm is not None and self.arm not in known:
            raise nearest(self.arm, known, f"arm of {folder}")
        arms: list[Arm] = [a for n, a in known.items() if self.arm in (None, n)]
        arms += [parse(f"{c}({a.label})") for a in arms for c in CONTROLS]
        settings = made.cells[0].settings
        budgets, seeds = dict.fromkeys(c.budget for c in made.cells if c.arm), {c.seed for c in made.cells}
        cells = plan(settings, arms, list(budgets), sorted(seeds))
        failed = execute(cells, folder, engine(self.jobs), lambda now: tell("controls", now["done"] / now["total"]))
        rows = _whole(tidy(cells, folder), failed)
        return rows, set() if settings.granularity == "weight" else {r["arm"] for r in rows}

    def _tickets(self, folder: Path, tell: Tell) -> list[dict[str, Any]]:
        """The lottery ticket's initial weights against new ones, at each learning rate."""
        if not self.lottery:
            return []
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        rows = []
        for lr in self.lottery:
            for seed in range(self.seeds):
                tell(f"winning ticket, learning rate {lr:g}, seed {seed}", len(rows) / len(self.lottery) / self.seeds)
                what: dict[str, Any] = {"task": repr(task), "model": self.model, "lr": lr, "seed": seed}
                what |= {"sparsity": self.sparsity, "epochs": self.dense_epochs}
                facts = kept(folder / "tickets", what, lambda lr=lr, seed=seed: self._ticket(task, lr, seed))
                rows.append({"learning rate": lr, "seed": seed} | facts)
        return rows

    def _ticket(self, task: Task, lr: float, seed: int) -> dict[str, float]:
        steps = max(1, round(self.dense_epochs * task.steps_per_epoch))
        first, fresh = (find.network(self.model, None, s) for s in (seed, seed + FRESH))
        dense = copy.deepcopy(first)
        facts = {"dense": train(dense, task, steps, seed=seed, lr=lr).evaluate("test")}
        masks = prune(dense, self.sparsity, score="magnitude", allocate="global", floor=1)
        for name, network in (("ticket", first), ("new weights", fresh)):
            run = train(network, task, steps, masks=masks, seed=mix(seed, "ticket") % 2**31, lr=lr)
            facts[name] = run.evaluate("test")
        return facts

    def _found(self, rows: Sequence[Row], structured: set[str], tickets: Sequence[Row]) -> Finding:
        """The table of what was worth it, and the verdict."""
        arms = list(dict.fromkeys((r["arm"], r["asked"]) for r in rows if r["kind"] == "recipe"))
        table = [line for arm, asked in arms for line in verdict_on(rows, arm, asked, self.margin)]
        widths = [line for arm, asked in arms for line in architecture(rows, arm, asked)]
        kinds = {
            "channels": [a for a in arms if a[0] in structured],
            "single weights": [a for a in arms if a[0] not in structured],
        }
        gaps = {n: [pooled(rows, mine, c) for c in CONTROLS] for n, mine in kinds.items() if mine}
        parts = [
            f"of {n}, fine-tuning is {_by(b)} at equal computation and {_by(e)} at equal epochs"
            for n, (e, b) in gaps.items()
        ]
        _, decides = next(iter(gaps.values()))  # channels, where there are any
        holds = matches(decides, self.margin)
        good = "scratch is better" if decides.verdict == "loss" else "scratch is as good"
        word = {True: good, False: "fine-tuning is worth it", None: "this does not decide it"}[holds]
        unequal = any(UNEQUAL in (r["note"] or "") for r in rows)
        less = ", scratch without the training that the weights had" if unequal else ""
        said = f"{'; '.join(parts)} (mean over {_many(rows)}{less})"
        verdict = f"Against the same architecture trained from scratch, {said}: {word}."
        tables: dict[str, Any] = {"Was it worth it?": table}
        if widths:
            tables["From scratch: the found widths or places, and others"] = widths
        if tickets:
            tables["Winning tickets and new weights under their masks"] = _luck(tickets)
        tables["Cells"] = [
            {n: r[n] for n in ("arm", "asked", "seed", "test", "steps", "times", "note")} for r in rows if r["arm"]
        ]
        return Finding(verdict, holds, tables, (_figure(rows, arms),))


def verdict_on(rows: Sequence[Row], arm: str, asked: str, margin: float) -> list[dict[str, Any]]:
    """Return fine-tuning against scratch at equal epochs and at equal computation: the difference, and what it says."""
    table = []
    for control in CONTROLS:
        gap = pooled(rows, [(arm, asked)], control)
        line: dict[str, Any] = {"arm": arm, "budget": asked, "against": NAMES[control]}
        line["fine-tuned %"], line["std"] = _spread(accuracies(rows, arm, asked))
        line["it %"], line["its std"] = _spread(accuracies(rows, f"{control}({arm})", asked))
        line |= {"difference": gap.mean, "low": gap.low, "high": gap.high, "worth it": worth_it(gap, margin)}
        table.append(line | {"seeds": gap.seeds})
    return table


def architecture(rows: Sequence[Row], arm: str, asked: str) -> list[dict[str, Any]]:
    """Return scratch at equal epochs against layers that are narrower alike, or places that are shuffled, where known."""
    table, ours = [], accuracies(rows, f"scratch({arm})", asked)
    for control in ("small", "shuffled"):
        theirs = accuracies(rows, f"{control}({arm})", asked)
        if seeds := sorted(set(ours) & set(theirs)):
            gap = paired([ours[s] for s in seeds], [theirs[s] for s in seeds])
            line = {"arm": arm, "budget": asked, "against": NAMES[control], "scratch %": _spread(ours)[0]}
            line |= {"it %": _spread(theirs)[0], "difference": gap.mean, "low": gap.low, "high": gap.high}
            table.append(line | {"seeds": gap.seeds})
    return table


def accuracies(rows: Sequence[Row], arm: str, asked: str) -> dict[int, float]:
    """Return seed -> test accuracy in percent."""
    return {r["seed"]: 100 * r["test"] for r in rows if (r["arm"], r["asked"]) == (arm, asked)}


def pooled(rows: Sequence[Row], arms: Sequence[tuple[str, str]], control: str) -> Difference:
    """Return fine-tuning minus a control in points: of every seed the mean over arms, and over seeds its interval."""
    ours = [accuracies(rows, arm, asked) for arm, asked in arms]
    theirs = [accuracies(rows, f"{control}({arm})", asked) for arm, asked in arms]
    seeds = sorted(set.intersection(*(set(t) for t in (*ours, *theirs))))
    if not seeds:
        raise ResproutError(f"no seed has both {', '.join(a for a, _ in arms)} and its {control}")
    means = [[sum(t[s] for t in side) / len(arms) for s in seeds] for side in (ours, theirs)]
    return paired(*means)


def matches(gap: Difference, margin: float) -> bool | None:
    """Whether scratch is as good as fine-tuning but for `margin`; None where the interval (or one seed) does not say."""
    if gap.seeds < 2:
        return None
    return True if gap.high <= margin else False if gap.low > 0 else None


def worth_it(gap: Difference, margin: float) -> str:
    """Say what the interval of fine-tuning minus scratch says."""
    if gap.seeds < 2:
        return "one seed does not say"
    if gap.verdict == "win":
        return "yes" if gap.high > margin else f"yes, by less than {margin:g} points"
    if gap.verdict == "loss":
        return "no: scratch is better"
    return "no: scratch is as good" if gap.high <= margin else "not decided"


def _spread(found: Mapping[int, float]) -> tuple[float, float | None]:
    """Mean and standard deviation; None of a single seed, for JSON knows no NaN."""
    values = list(found.values())
    return (values[0], None) if len(values) == 1 else spread(values)


def _whole(rows: list[dict[str, Any]], failed: Mapping[str, str]) -> list[dict[str, Any]]:
    if failed:
        title, why = next(iter(failed.items()))
        raise ResproutError(f"{len(failed)} cells failed; {title}: {why}")
    return rows


def _part(tell: Tell, start: float, end: float) -> Tell:
    """Tell of one part of the whole."""
    return lambda what, share: tell(what, start + (end - start) * share)


def _by(gap: Difference) -> str:
    return f"{gap.mean:+.2f} points [{gap.low:+.2f}, {gap.high:+.2f}]"


def _many(rows: Sequence[Row]) -> str:
    arms, seeds = {r["arm"] for r in rows if r["kind"] == "recipe"}, {r["seed"] for r in rows}
    return f"{len(arms)} arm{'s' * (len(arms) != 1)} and {len(seeds)} seed{'s' * (len(seeds) != 1)}"


def _luck(tickets: Sequence[Row]) -> list[dict[str, Any]]:
    """Ticket minus new weights at each learning rate, in points."""
    table = []
    for lr in dict.fromkeys(t["learning rate"] for t in tickets):
        mine = [t for t in tickets if t["learning rate"] == lr]
        gap = paired([100 * t["ticket"] for t in mine], [100 * t["new weights"] for t in mine])
        line = {"learning rate": lr} | {
            n: 100 * sum(t[n] for t in mine) / len(mine) for n in ("dense", "ticket", "new weights")
        }
        table.append(line | {"ticket - new": gap.mean, "low": gap.low, "high": gap.high, "seeds": gap.seeds})
    return table


def _brief(arm: str) -> str:
    """What tells arms apart: score and allocation, where both are named."""
    said = re.findall(r"\b(?:score|allocate)=(\w+)", arm)
    return ", ".join(said) if len(said) == 2 else arm


def _figure(rows: Sequence[Row], arms: Sequence[tuple[str, str]]) -> Figure:
    series: dict[str, Any] = {}
    for control, name in {"": "fine-tuned", **NAMES}.items():
        found = [(_brief(a), asked, accuracies(rows, f"{control}({a})" if control else a, asked)) for a, asked in arms]
        known = [(f"{arm} {asked}", *_spread(values)) for arm, asked, values in found if values]
        if known:
            labels, means, deviations = zip(*known, strict=True)
            series[name] = {"x": labels, "y": means, "spread": [d or 0.0 for d in deviations]}
    words = "Test accuracy of the fine-tuned network and of the same architecture from scratch; standard deviation over seeds."
    return bars("Fine-tuned or from scratch", series, "what was found", "test accuracy (%)", words=words)
