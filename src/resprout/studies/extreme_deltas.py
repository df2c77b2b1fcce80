"""What is left of fine-tuning when 99 % of the differences are dropped, and does another rescaling than DARE's save it?

Deng, Zhao, Vakilian, Chen, Li, Thrampoulidis: "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models", ICLR
2025, arXiv:2410.09344. A network that knows one half of a task's samples, turned on their heads, is tuned on the other half as
they are, by Adam and by AdamR; each difference is then pruned, put back on, and measured.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from .. import find
from ..compare.statistics import paired, spread
from ..compare.train import train
from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..core.run import mix
from ..deltas._kind import DeltaPruner, Pair
from ..deltas.adam_r import AdamR
from ..deltas.dare import Dare
from ..deltas.darex import Darex
from ..deltas.delta import save
from ..deltas.largest import Largest
from ..tasks.arrays import Arrays
from ._kept import kept
from ._study import Finding, Study, Tell, silent

BATCHES = 4  # of training inputs, without labels, that outputs and inputs of layers are looked at with


@dataclass(frozen=True)
class ExtremeDeltas(Study):
    """Tune by each optimizer for each seed, and prune the difference by each method at each share `drop`.

    Attributes:
        task, model, data: as in `compare`; images in arrays.
        weights: file of the base network; without, it is trained for `base_epochs` on the first half of the samples, upside down.
        ignore: names of weights whose difference stays whole; default the last one, the head.
        drop: shares; the last is the one that the verdict is about.
        epochs, lr, pull, seeds: of the tuning.
        grid: values of q that are tried.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    ignore: tuple[str, ...] | None = None
    drop: tuple[float, ...] = (0.99,)
    base_epochs: float = 16
    epochs: float = 16
    lr: float = 5e-3
    pull: float = 0.03
    grid: int = 10
    seeds: int = 5
    claim: ClassVar[str] = (
        "At 99 % a q found by search or formula keeps far more of the fine-tuned accuracy than DARE's, and differences that "
        "AdamR kept small survive."
    )
    key: ClassVar[str | None] = "darex"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: one seed, no share, or a task that keeps no images.
        """
        began = time.monotonic()
        task = find.task(self.task, None if self.data is None else Path(self.data), self.model)
        if self.seeds < 2 or not self.drop or not isinstance(task, Arrays) or task.train[0].dim() != 4:
            raise ResproutError(
                "extreme_deltas needs two seeds, a share to drop, and a task that keeps images in arrays"
            )
        rows = []
        for seed in range(self.seeds):
            for optimizer in ("Adam", "AdamR"):
                tell(f"{optimizer}, seed {seed}", len(rows) / 2 / self.seeds / len(self._ways()) / len(self.drop))
                question = {"task": repr(task), "study": repr(dataclasses.replace(self, seeds=2)), "seed": seed}
                facts = kept(
                    folder / "tunings", question | {"optimizer": optimizer},
                    lambda seed=seed, optimizer=optimizer: {"rows": self._rows(task, seed, optimizer)},
                )  # fmt: skip
                rows += [{"optimizer": optimizer, "seed": seed} | row for row in facts["rows"]]
        return judge(rows, max(self.drop), time.monotonic() - began)

    def _ways(self) -> dict[str, Callable[[float], DeltaPruner]]:
        return {
            "DARE": lambda p: Dare(p),
            "DAREx-q, outputs": lambda p: Darex(p, "outputs", grid=self.grid),
            "DAREx-q, labels": lambda p: Darex(p, "worth", grid=self.grid),
            "DAREx-q, formula": lambda p: Darex(p, "formula"),
            "largest": lambda p: Largest(p),
            "largest x inputs": lambda p: Largest(p, inputs=True),
        }

    def _rows(self, task: Arrays, seed: int, optimizer: str) -> list[dict[str, Any]]:
        """One tuned network and all that is left of it; accuracies in percent."""
        base, target = self._base(task, seed)
        tuned = self._tuned(base, target, seed, optimizer)
        names = [n for n, p in base.named_parameters() if p.dim() > 1]
        batches = [b for _, b in zip(range(BATCHES), target.batches("train", seed=seed), strict=False)]
        pair = Pair(
            base, tuned, tuple(names[-1:]) if self.ignore is None else self.ignore, batches, target.loss,
            lambda network: target.evaluate(network.eval(), "validation")["accuracy"], seed,
        )  # fmt: skip
        size = {"mean difference": sum(float(d.abs().sum()) for d in pair.delta.values())}
        size["mean difference"] /= sum(d.numel() for d in pair.delta.values())

        def row(drop: float, way: str, network: nn.Module, **facts: Any) -> dict[str, Any]:
            accuracy = 100 * target.evaluate(network.eval(), "test")["accuracy"]
            return {"drop": drop, "way": way, "test": accuracy} | facts

        rows = [row(1.0, "base", base), row(0.0, "tuned", tuned, **size, KiB=self._file(pair, pair.delta))]
        for drop in self.drop:
            for way, make in self._ways().items():
                method = make(drop)
                pruned = method(pair)
                q = {"q": min(method.rescale(pair).values())} if isinstance(method, Darex) else {}
                rows.append(row(drop, way, pair.network(pruned), **q, KiB=self._file(pair, pruned)))
        return rows

    def _base(self, task: Arrays, seed: int) -> tuple[nn.Module, Arrays]:
        """The network before, and the task after: other samples."""
        network = find.network(self.model, None if self.weights is None else Path(self.weights), mix(seed, "network"))
        x, y = task.train
        half = torch.randperm(len(y), generator=torch.Generator().manual_seed(mix(seed, "halves"))) < len(y) // 2
        if self.weights is None:
            first = dataclasses.replace(
                task, train=(x[half].flip(2), y[half]), validation=(task.validation[0].flip(2), task.validation[1])
            )
            train(network, first, max(1, round(self.base_epochs * first.steps_per_epoch)), seed=seed, lr=0.05, looks=1)
        return network.eval(), dataclasses.replace(task, train=(x[~half], y[~half]))

    def _tuned(self, base: nn.Module, task: Arrays, seed: int, optimizer: str) -> nn.Module:
        """A copy of `base` trained on the task by Adam, or AdamR, with a rate that falls in a line."""
        model = copy.deepcopy(base).train()
        made = AdamR(model.parameters(), self.lr, pull=self.pull if optimizer == "AdamR" else 0.0)
        steps, step = max(1, round(self.epochs * task.steps_per_epoch)), 0
        while step < steps:
            for batch in task.batches("train", seed=mix(seed, "tuning"), epoch=step // task.steps_per_epoch):
                if step == steps:
                    break
                for group in made.param_groups:
                    group["lr"] = self.lr * (1 - step / steps)
                made.zero_grad()
                task.loss(model, batch).backward()
                made.step()
                step += 1
        return model.eval()

    def _file(self, pair: Pair, pruned: dict[str, torch.Tensor]) -> float:
        """What the difference takes in a file, in KiB."""
        with tempfile.TemporaryDirectory() as place:
            return save(Path(place) / "delta.safetensors", pair.base, pair.whole | pruned) / 1024


def judge(rows: list[dict[str, Any]], drop: float, seconds: float = 0.0) -> Finding:
    """Return what is left, of rows with optimizer, seed, drop, way, test accuracy and file size."""
    table: list[dict[str, Any]] = []
    for optimizer, share, way in dict.fromkeys((r["optimizer"], r["drop"], r["way"]) for r in rows):
        own = [r for r in rows if (r["optimizer"], r["drop"], r["way"]) == (optimizer, share, way)]
        mean, deviation = spread([r["test"] for r in own])
        row: dict[str, Any] = {"optimizer": optimizer, "dropped, %": round(100 * share, 1), "way": way}
        row |= {"test accuracy, %": round(mean, 2), "± sd": round(deviation, 2)}
        for name, digits in (("q", 3), ("KiB", 1), ("mean difference", 5)):
            values = [r[name] for r in own if name in r]
            row[name] = round(spread(values)[0], digits) if values else ""
        table.append(row)

    def reached(optimizer: str, way: str) -> list[float]:
        return [r["test"] for r in rows if (r["optimizer"], r["way"], r["drop"]) == (optimizer, way, drop)]

    searched = paired(reached("Adam", "DAREx-q, outputs"), reached("Adam", "DARE"))
    small = paired(reached("AdamR", "DARE"), reached("Adam", "DARE"))
    holds = True if searched.low > 0 and small.low > 0 else False if searched.high < 0 or small.high < 0 else None
    verdict = (
        f"at {100 * drop:g} % dropped, q by outputs is {searched} points better than DARE, and DARE after AdamR {small} points "
        "better than after Adam"
    )
    return Finding(verdict, holds, {"What is left": table}, seconds=seconds)
