"""Does a network that is pruned while it trains learn as much as a dense one of its average size?

Jin, Humayun, Evci, Subramanian, Yazdanbakhsh, Alistarh, Dziugaite: "The Journey Matters: Average Parameter Count over
Pre-training Unifies Sparse and Dense Scaling Laws", ICLR 2025, arXiv:2501.12486. A language model of characters, small enough to
train in seconds: two layers behind an embedding, which is never pruned. Three networks see the same text: one that is pruned
geometrically at the planned steps, a dense one as wide as the first is on average, and a dense one as wide as it is in the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..compare.statistics import paired, spread
from ..core.errors import ResproutError
from ..core.kinds import Fidelity, Rule
from ..core.masks import Masks
from ..core.run import Run, mix
from ..core.train import Optimizer, Train
from ..laws.avg_param_law import Plan, plan
from ..methods.allocate.global_ import Global
from ..methods.rule.gradual import Gradual
from ..methods.schedule.cosine import Cosine
from ..methods.schedule.geometric import Geometric
from ..tasks.arrays import Arrays
from ._kept import kept
from ._study import Finding, Study, Tell, silent

CONTEXT, EMBEDDING = 12, 16


class Characters(nn.Module):
    """The next of `alphabet` characters from the `CONTEXT` before it."""

    def __init__(self, alphabet: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(alphabet, EMBEDDING)
        self.hidden = nn.Linear(CONTEXT * EMBEDDING, width)
        self.output = nn.Linear(width, alphabet)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; `x` are the numbers of characters (samples, CONTEXT)."""
        return self.output(self.hidden(self.embed(x.long()).flatten(1)).relu())


@dataclass(frozen=True)
class AverageParameters(Study):
    """Train the three networks for each seed and sparsity, and compare test losses in nats per character.

    Attributes:
        data: a text file; its last tenth is for testing, the tenth before for validation.
        characters: of the file that are read.
        width: of the dense network that is pruned.
        sparsity: at the end.
        steps, batch, lr, seeds: of every training.
        every: steps between cuts.
    """

    data: str = "../shared/data/tinystories/validation.txt"
    characters: int = 200_000
    width: int = 256
    sparsity: tuple[float, ...] = (0.8,)
    steps: int = 1200
    batch: int = 128
    lr: float = 3e-3
    every: int = 10
    seeds: int = 3
    claim: ClassVar[str] = (
        "The loss of a network pruned while it trains is nearer to that of a dense network of its average size than to that of "
        "one of its final size."
    )
    key: ClassVar[str | None] = "avg-param-law"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: one seed, or a file that is not there or too short.
        """
        began = time.monotonic()
        if self.seeds < 2 or not self.sparsity:
            raise ResproutError("average_parameters needs two seeds and a sparsity")
        task = letters(Path(self.data), self.characters, self.batch)
        arms = [
            (seed, s, arm)
            for seed in range(self.seeds)
            for s in self.sparsity
            for arm in ("sparse", "average", "final")
        ]
        rows = []
        for i, (seed, sparsity, arm) in enumerate(arms):
            tell(f"{arm}, {100 * sparsity:g} %, seed {seed}", i / len(arms))
            question = {"task": repr(task), "study": repr(self), "arm": [seed, sparsity, arm]}
            facts = kept(folder / "trainings", question, lambda a=arms[i]: self._train(task, *a))
            rows.append({"sparsity, %": 100 * sparsity, "arm": arm, "seed": seed} | facts)
        return judge(rows, time.monotonic() - began)

    def _plan(self, alphabet: int, sparsity: float) -> Plan:
        return plan(sparsity, self.steps, weights(alphabet, self.width), tokens=float(self.steps * self.batch))

    def _train(self, task: Arrays, seed: int, sparsity: float, arm: str) -> dict[str, Any]:
        """One network: its size on average and in the end, and its test loss."""
        alphabet = 1 + int(task.train[1].max())
        when = self._plan(alphabet, sparsity)
        size = {"sparse": when.params, "average": when.average, "final": when.final}[arm]
        torch.manual_seed(mix(seed, "network"))
        width = max(1, round(size / (CONTEXT * EMBEDDING + alphabet)))
        run = Run(Characters(alphabet, width), task, seed=seed)
        lr, adam = Cosine(self.lr, 0.0, warmup=0.05), Optimizer("adamw", decay=0.0)
        marks = (0, when.start, when.end, self.steps) if arm == "sparse" else (0, self.steps)
        for begin, end in pairwise(marks):
            cuts = arm == "sparse" and begin == when.start
            gradual = Gradual(Geometric(0.0, sparsity), until=1.0, every=self.every, allocate=Global())
            span = (begin / self.steps, end / self.steps)
            run.do(Train(end - begin, lr, adam, gradual if cuts else Rule(), span))
        loss = task.evaluate(run.model.eval(), "test")["loss"]
        average = when.average if arm == "sparse" else float(run.masks.total)
        return {"average weights": round(average), "final weights": run.masks.alive, "test loss": loss}


def weights(alphabet: int, width: int) -> int:
    """Return the prunable weights of `Characters`."""
    return Masks.dense(Characters(alphabet, width)).total


def letters(file: Path, characters: int, batch: int) -> Arrays:
    """Return the task of predicting each character of a text from those before it.

    Raises:
        ResproutError: no such file, or too little text.
    """
    try:
        with open(file, encoding="utf-8") as f:
            text = f.read(characters)
    except OSError as error:
        raise ResproutError(f"average_parameters reads a text: data={str(file)!r} cannot be read ({error})") from error
    if len(text) < 100 * CONTEXT:
        raise ResproutError(f"{file} holds {len(text)} characters; some thousands are needed")
    common = sorted(set(text), key=lambda c: (-text.count(c), c))[:63]  # the rare ones are one
    ids = torch.tensor([common.index(c) if c in common else len(common) for c in text], dtype=torch.uint8)
    rows = ids.unfold(0, CONTEXT + 1, 1)
    x, y = rows[:, :CONTEXT].to(torch.int16), rows[:, CONTEXT].long()
    a, b = int(0.8 * len(y)), int(0.9 * len(y))
    parts = [(x[s], y[s]) for s in (slice(0, a), slice(a + CONTEXT, b), slice(b + CONTEXT, None))]
    return Arrays(parts[0], parts[1], parts[2], batch_size=batch, name=f"letters-{file.stem}")


def judge(rows: list[dict[str, Any]], seconds: float = 0.0) -> Finding:
    """Return what the networks, each with sparsity, arm, seed and test loss, show."""
    table, verdicts, nearer = [], [], []
    for sparsity in dict.fromkeys(r["sparsity, %"] for r in rows):
        own = {
            a: [r for r in rows if r["arm"] == a and r["sparsity, %"] == sparsity]
            for a in ("sparse", "average", "final")
        }
        for arm, found in own.items():
            mean, deviation = spread([r["test loss"] for r in found])
            row = {"sparsity, %": sparsity, "network": arm, "average weights": found[0]["average weights"]}
            row |= {
                "final weights": found[0]["final weights"],
                "test loss": round(mean, 4),
                "± sd": round(deviation, 4),
            }
            table.append(row)
        losses = {a: np.array([r["test loss"] for r in found]) for a, found in own.items()}
        to_average, to_final = (abs(losses["sparse"] - losses[a]) for a in ("average", "final"))
        gap = paired(1000 * to_final, 1000 * to_average)
        nearer.append(gap)
        verdicts.append(
            f"{sparsity:g} % sparse: {float(to_average.mean()):.4f} nats from the dense network of its average size, "
            f"{float(to_final.mean()):.4f} from that of its final size (difference in thousandths {gap})"
        )
    holds = True if all(g.low > 0 for g in nearer) else False if any(g.high < 0 for g in nearer) else None
    return Finding("; ".join(verdicts), holds, {"Networks": table, "Trainings": rows}, seconds=seconds)
