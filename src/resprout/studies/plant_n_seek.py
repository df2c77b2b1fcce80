"""Can you find the winning ticket? Known sparse networks are hidden in random ones, and every pruner of ours looks for them.

Fischer, Burkholz: "Plant 'n' Seek: Can You Find the Winning Ticket?", ICLR 2022, arXiv:2111.11153.

Every score that can rank the weights of a perceptron is asked at initialisation, in exponential rounds, and after dense training;
recipes walk their own way. Each cuts to exactly as many weights as the ticket has, and to multiples of it. `found` is the part of
the ticket's weights that is kept; a cut at random finds as much as it keeps. `worth` is accuracy (circle) or R^2 on test data.

So few weights of a random network put out next to nothing: before they are trained they are rescaled, evenly over the layers, to
outputs as large as the truth's (the ticket is then the truth, before any training). Edge-popup is not among the pruners yet.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from .. import catalog, find
from ..core import store
from ..core.budget import Nonzero
from ..core.errors import LayerDied, ResproutError
from ..core.granularity import Weight
from ..core.kinds import Fidelity, Method, Recipe, Schedule, Score
from ..core.masks import Masks
from ..core.run import Run, mix
from ..core.steps import Mark, pruned
from ..core.task import Task
from ..core.train import Optimizer, Train
from ..methods.allocate.global_ import Global
from ..methods.schedule.cosine import Cosine
from ..report.figure import Figure, heat
from ._kept import kept
from ._study import Finding, Study, Tell, silent
from ._tickets import TICKETS, Planted, Ticket, plant, rescaled, task_of

Row = dict[str, Any]
WAYS = ("at initialisation", "in rounds", "after training")
MOST = 1e6  # outputs are rescaled by no more: what is smaller is noise, for nothing passes
HALF = 50.0  # percent of a ticket, from which on it counts as found


@dataclass(frozen=True)
class PlantNSeek(Study):
    """Hide each of `targets` in a network of `depth` layers of `width` units, and look for it with everything there is.

    `levels` are multiples of the ticket's weights; `scores` names some of them (default all that need no argument), `recipes`
    are written as on the command line; `rounds` are those of "in rounds"; `steps` each training has, with AdamW.
    """

    targets: tuple[str, ...] = ("relu", "circle", "helix")
    depth: int = 4
    width: int = 100
    levels: tuple[float, ...] = (1.0, 10.0)
    scores: tuple[str, ...] = ()
    recipes: tuple[str, ...] = (
        "lth_imp",
        "gmp",
        "sparse_training(fresh=True)",
        "sparse_training(fresh=True, rule=set)",
        "bidirectional_gradual",
        "granet",
        "learned_mask",
        "mia_prune",
    )
    rounds: int = 10
    steps: int = 200
    lr: float = 3e-3
    samples: int = 1024
    seed: int = 0
    claim: ClassVar[str] = (
        "Most pruners do not find a planted ticket at its own sparsity; magnitude after training and SynFlow come nearest."
    )
    key: ClassVar[str | None] = "plant-n-seek"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        unknown = [t for t in self.targets if t not in TICKETS]
        if unknown or not self.targets or self.depth < 3 or min(self.levels, default=0) < 1:
            raise ResproutError(f"targets are some of {', '.join(TICKETS)}, depth 3 or more, levels 1 or more")
        if self.rounds < 1 or self.steps < 1:
            raise ResproutError(f"rounds and steps must be 1 or more, got {self.rounds} and {self.steps}")

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Seek what has not been sought, and compare."""
        rows: list[Row] = []
        for number, target in enumerate(self.targets):
            rows += self._target(folder, target, lambda what, s, at=number: tell(what, (at + s) / len(self.targets)))
        return self.judge(rows)

    def judge(self, rows: Sequence[Row]) -> Finding:
        """Return what the rows show."""
        own = [r for r in rows if r["level"] == min(self.levels) and r["way"] in (*WAYS, "recipe")]
        by: dict[tuple[str, str], list[float]] = {}
        for row in own:
            if row["found"] is not None:
                by.setdefault((row["method"], row["way"]), []).append(row["found"])
        means = {who: sum(v) / len(v) for who, v in by.items() if len(v) == len(self.targets)}
        order = sorted(means, key=lambda who: -means[who])
        finders = [who for who in order if means[who] >= HALF]
        best = "; ".join(f"{method} {way} {means[method, way]:.0f} %" for method, way in order[:3])
        verdict = (
            f"with as many weights as the ticket has, {len(finders)} of {len(means)} ways to prune keep half of it on average "
            f"over {', '.join(self.targets)} (the best: {best})"
        )
        table = [{"method": m, "way": w, "found, mean": means[m, w]} for m, w in order]
        return Finding(
            verdict, 2 * len(finders) < len(means) if means else None, {"who finds": table, "all": list(rows)},
            [_figure(rows, self.targets, min(self.levels))],
        )  # fmt: skip

    def _target(self, folder: Path, target: str, tell: Tell) -> list[Row]:
        ticket = TICKETS[target](self.depth)
        hidden = plant(ticket, self.width, mix(self.seed, target))
        task = task_of(target, ticket, self.samples, self.seed)
        question = {n: getattr(self, n) for n in ("rounds", "steps", "lr")} | {
            "task": repr(task),
            "levels": self.levels,
        }
        question |= {"network": store.checksum(hidden.network.state_dict())}
        jobs = list(self._jobs())
        dense, _ = self._trained(hidden.network, task, None)
        rows = [self._row(target, ticket, hidden, ("the ticket itself", "oracle"), 1.0, hidden.masks, task)]
        for at, (name, way, method) in enumerate(jobs):
            tell(f"{target}: {name} {way}", at / len(jobs))
            asked = question | {"method": store.configuration(with_adamw(method, self.lr)), "way": way}

            def seek(name: str = name, way: str = way, method: Score | Recipe = method) -> dict[str, Any]:
                return {"rows": self._seek(target, ticket, hidden, dense, task, name, way, method)}

            rows += kept(folder / "sought", asked, seek)["rows"]
        return rows

    def _jobs(self) -> Iterator[tuple[str, str, Score | Recipe]]:
        """(name, way, method) of everything that seeks."""
        for name in self.scores or [c.name for c in catalog.cards() if c.kind == "score"]:
            try:
                score = catalog.make("score", name)
            except ResproutError:
                continue  # it needs arguments
            if not score.rows:
                yield from ((name, way, score) for way in WAYS)
        for text in self.recipes:
            recipe = find.method("recipe", text)
            assert isinstance(recipe, Recipe)
            yield text, "recipe", recipe

    def _seek(
        self,
        target: str,
        ticket: Ticket,
        hidden: Planted,
        dense: nn.Module,
        task: Task,
        name: str,
        way: str,
        method: Score | Recipe,
    ) -> list[Row]:
        """Rows of one way to prune, a level each; of a method that cannot, rows without a number that say why."""
        rows = []
        for level in self.levels:
            keep = min(hidden.masks.total, round(level * ticket.edges))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", LayerDied)
                    if isinstance(method, Recipe):
                        rows.append(self._walk(target, ticket, hidden, dense, task, name, method, keep, level))
                        continue
                    start = dense if way == "after training" else hidden.network
                    masks = self._cut(start, task, method, keep, self.rounds if way == "in rounds" else 1)
                    rows.append(self._row(target, ticket, hidden, (name, way), level, masks, task, start))
            except (ResproutError, RuntimeError, IndexError) as error:  # it is for other networks, or for text
                why = " ".join(str(error).split())[:120]
                rows.append({"target": target, "method": name, "way": way, "level": level, "found": None, "why": why})
        return rows

    def _cut(self, network: nn.Module, task: Task, score: Score, keep: int, rounds: int) -> Masks:
        """Prune globally to `keep` weights in exponential rounds."""
        run = Run(copy.deepcopy(network), task, seed=self.seed)
        run.mark("dense")
        for k in range(1, rounds + 1):
            now = round(run.masks.total * (keep / run.masks.total) ** (k / rounds))
            run.set_masks(pruned(run.probe(), now, score, Global(), Weight()))
        return run.masks

    def _trained(self, network: nn.Module, task: Task, masks: Masks | None) -> tuple[nn.Module, float]:
        """The network after training, under masks rescaled before it; and what it was worth then."""
        run = Run(copy.deepcopy(network), task, seed=self.seed)
        if masks is not None:
            run.set_masks(masks)
            assert isinstance(run.model, nn.Sequential)
            x, y = next(iter(task.batches("validation")))
            wide = 2.0 if y.dtype == torch.int64 else float(y.std())
            has = float(run.model(x).detach().std())
            if wide < MOST * has:
                rescaled(run.model, wide / has)
        before = run.evaluate("test")
        run.do(Train(self.steps, Cosine(self.lr, 0.0, warmup=0.05), Optimizer("adamw", decay=0.0), looks=1))
        return run.model, before

    def _row(
        self,
        target: str,
        ticket: Ticket,
        hidden: Planted,
        who: tuple[str, str],
        level: float,
        masks: Masks,
        task: Task,
        start: nn.Module | None = None,
        trained: nn.Module | None = None,
    ) -> Row:
        """What of the ticket is in the masks, and what they are worth after training from `start`."""
        model, before = self._trained(start or hidden.network, task, masks) if trained is None else (trained, None)
        row: Row = {"target": target, "method": who[0], "way": who[1], "level": level, "weights": masks.alive}
        row["found"] = 100 * (masks & hidden.masks).alive / ticket.edges
        row["by chance"] = 100 * masks.density
        counts = masks.counts.values()
        return row | {
            "layers": " ".join(map(str, counts)),
            "before training": before,
            "worth": Run(model, task).evaluate("test"),
        }

    def _walk(
        self,
        target: str,
        ticket: Ticket,
        hidden: Planted,
        dense: nn.Module,
        task: Task,
        name: str,
        recipe: Recipe,
        keep: int,
        level: float,
    ) -> Row:
        """Let a recipe walk from the trained network, whose point "start" is the planted one."""
        run = Run(copy.deepcopy(hidden.network), task, seed=self.seed)
        run.do(Mark("start"))
        run.model.load_state_dict(dense.state_dict())
        run.do(Mark("dense"))
        ours: Any = {"epochs": self.steps / task.steps_per_epoch}
        dataclasses.replace(with_adamw(recipe, self.lr), **ours)(run, [Nonzero(keep)])
        return self._row(target, ticket, hidden, (name, "recipe"), level, run.masks, task, trained=run.model)


def with_adamw(method: Any, lr: float) -> Any:
    """Return a method that trains by AdamW at `lr` wherever it would by SGD, in the methods that are its fields too."""
    found = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    ours = {n: with_adamw(v, lr) for n, v in found.items() if isinstance(v, Method)}
    if getattr(found.get("optimizer"), "kind", "") == "sgd" and "lr" in found:
        rate = Cosine(lr, 0.0, warmup=0.05) if isinstance(found["lr"], Schedule) else lr
        ours |= {"optimizer": Optimizer("adamw", decay=0.0), "lr": rate}
    return dataclasses.replace(method, **ours)


def _figure(rows: Sequence[Row], targets: Sequence[str], level: float) -> Figure:
    """How much of each ticket is found at its own sparsity."""
    shown = [r for r in rows if r["level"] == level and r["found"] is not None]
    who = list(dict.fromkeys((r["method"], r["way"]) for r in shown))
    found = {(r["method"], r["way"], r["target"]): r["found"] for r in shown}
    values = [[found.get((*w, t), math.nan) for t in targets] for w in who]
    names = [f"{method}, {way}" for method, way in who]
    words = "The part of each planted ticket that is left when as many weights are kept as the ticket has."
    return heat("Who finds the ticket", values, targets, names, "ticket", "pruner", unit="%", words=words)
