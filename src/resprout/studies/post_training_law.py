"""Can the first half of the training after pruning tell how the second half will go?

Chen, Hu, Zhang, Wang, Li, Chen, Zhang: "P2 Law: Scaling Law for Post-Training After Model Pruning", ACL 2025, arXiv:2411.10272.
One network, pruned once by each share of `rates` and trained on at a rate that stands still; its law is fitted to the validation
losses of the first part, and asked for the rest. It stands against the guess that nothing will change.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .. import find
from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Fidelity
from ..core.run import Run
from ..core.steps import Prune
from ..core.task import Task
from ..core.train import Optimizer, Train
from ..laws._law import bootstrap, fit, slope_difference
from ..laws.p2_law import P2Law, broken, floor, tokens_until
from ..methods.allocate.uniform import Uniform
from ..methods.schedule.constant import Constant
from ..methods.score.magnitude import Magnitude
from ..report.figure import Figure, lines
from ..tasks.text import Text
from ._kept import kept
from ._study import Finding, Study, Tell, silent


@dataclass(frozen=True)
class PostTrainingLaw(Study):
    """Prune by magnitude, train, look `looks` times, fit to the first share `known` of the looks.

    Attributes:
        model, data: a language model of Hugging Face with its weights, and a folder of text.
        rates: shares of the prunable weights that are pruned, each in a run of its own.
        steps, looks, lr, window, batch: of each training.
        validation: tokens that losses are measured on.
        gap: the planner's question: after how many tokens is the loss so near to its floor?
        draws: of the bootstrap of that answer.
    """

    model: str = "hf:../shared/data/stories260k"
    data: str = "../shared/data/tinystories"
    rates: tuple[float, ...] = (0.3, 0.5, 0.7)
    steps: int = 200
    looks: int = 20
    known: float = 0.5
    lr: float = 5e-4
    window: int = 128
    batch: int = 8
    validation: int = 10_000
    gap: float = 0.01
    draws: int = 20
    seed: int = 0
    claim: ClassVar[str] = (
        "A law of the size, the tokens and the share pruned, fitted to the beginning of the curves, predicts where they go."
    )
    key: ClassVar[str | None] = "p2-law"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: no rate, or looks that are too few to fit and to ask.
        """
        began = time.monotonic()
        first = round(self.known * self.looks)
        if not self.rates or len(self.rates) * first < len(P2Law.coefficients) or self.looks - first < 2:
            raise ResproutError(f"post_training_law needs a rate, 7 known losses and 2 to come; got {self}")
        task = self._task()
        curves = {}
        for i, rate in enumerate(self.rates):
            tell(f"{100 * rate:g} % pruned", i / len(self.rates))
            question = {"task": repr(task), "model": self.model, "rate": rate, "steps": self.steps, "looks": self.looks}
            question |= {"lr": self.lr, "seed": self.seed}
            curves[rate] = kept(folder / "curves", question, lambda rate=rate: self._curve(task, rate))
        tell("fitting", 0.9)
        return self._found(curves, first, time.monotonic() - began)

    def _task(self) -> Text:
        task = find.task("text", Path(self.data), self.model)
        assert isinstance(task, Text)
        held = task.validation[: self.validation]
        return Text(task.train, held, task.test[: self.validation], self.window, task.bos, self.batch, task.name)

    def _curve(self, task: Task, rate: float) -> dict[str, Any]:
        """Tokens trained on and validation losses of one run, and the loss and the weights before."""
        model = find.network(self.model, None)
        run = Run(model, task, seed=self.seed)
        facts: dict[str, Any] = {"dense": -float(np.log(run.evaluate())), "params": run.masks.total}
        run.do(Prune(check_sparsity(rate), Magnitude(), Uniform()))
        facts["cut"] = -float(np.log(run.evaluate()))
        record = run.do(Train(self.steps, Constant(self.lr), Optimizer("adamw", decay=0.0), looks=self.looks))
        facts["tokens"] = [step * self.batch * (self.window - 1) for step, _, _ in record["curve"]]
        return facts | {"losses": [-float(np.log(likelihood)) for _, _, likelihood in record["curve"]]}

    def _found(self, curves: dict[float, dict[str, Any]], first: int, seconds: float) -> Finding:
        def part(begin: int, end: int | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            rows = [
                (loss, float(c["params"]), float(tokens), rate, c["dense"])
                for rate, c in curves.items()
                for tokens, loss in list(zip(c["tokens"], c["losses"], strict=True))[begin:end]
            ]
            y, params, tokens, rates, dense = torch.tensor(rows, dtype=torch.float64).T
            return y, {"params": params, "tokens": tokens, "rate": rates, "dense_loss": dense}

        (y, at), (later, then) = part(0, first), part(first, None)
        found = fit(P2Law(), y, at)
        many = bootstrap(P2Law(), y, at, draws=self.draws) if self.draws else []
        predicted = found(**then).reshape(len(curves), -1)
        actual = later.reshape(len(curves), -1)
        table, series = [], {}
        for i, (rate, c) in enumerate(curves.items()):
            last = c["losses"][first - 1]
            stays = torch.full_like(actual[i], last)
            row: dict[str, Any] = {
                "pruned, %": 100 * rate,
                "loss before": round(c["dense"], 4),
                "cut": round(c["cut"], 4),
            }
            row |= {"after the known part": round(last, 4), "in the end": round(float(actual[i, -1]), 4)}
            for name, guess in (("law", predicted[i]), ("no change", stays)):
                error = ((guess - actual[i]).abs() / actual[i]).mean()
                row |= {f"{name}: error, %": round(100 * float(error), 3)}
                row |= {f"{name}: ASD, thousandths": round(1000 * slope_difference(guess, actual[i]), 2)}
            row |= self._planned(found, many, c["params"], rate, c["dense"])
            table.append(row)
            series[f"{100 * rate:g} % pruned"] = {"x": c["tokens"], "y": c["losses"]}
            series[f"{100 * rate:g} %, law"] = {"x": c["tokens"], "y": found(
                params=c["params"], tokens=c["tokens"], rate=rate, dense_loss=c["dense"]
            ).tolist()}  # fmt: skip
        ours, theirs = (float(np.mean([row[f"{n}: error, %"] for row in table])) for n in ("law", "no change"))
        wrong = broken(found, float(next(iter(curves.values()))["params"]))
        verdict = (
            f"fitted to {first} of {self.looks} looks, the law is {ours:.2f} % from the losses to come, no change {theirs:.2f} %"
            + (f"; but {', and '.join(wrong)}" if wrong else "")
        )
        words = (
            "Validation loss over tokens of training after pruning, and the law, which has seen the first part only."
        )
        shown: Figure = lines("Training after pruning", series, "tokens", "loss, nats per token", words=words)
        coefficients = [{"coefficient": n, "value": v} for n, v in found.coefficients.items()]
        return Finding(verdict, ours < theirs and not wrong, {"Curves": table, "Law": coefficients}, (shown,), seconds)

    def _planned(self, found: Any, many: list[Any], params: float, rate: float, dense: float) -> dict[str, Any]:
        """Where the loss ends, and the tokens until it is near; the interval is the middle 80 % of the bootstrap."""
        row: dict[str, Any] = {"floor": round(floor(found, params, rate, dense), 4)}
        needed = tokens_until(found, params, rate, gap=self.gap)
        row[f"tokens to {self.gap:g} of it"] = f"{needed:.3g}" if needed < 1e15 else "not in sight"
        answers = [tokens_until(f, params, rate, gap=self.gap) for f in many]
        if answers:
            low, high = np.quantile(answers, [0.1, 0.9])
            row["middle 80 %"] = f"{low:.2g} to " + (f"{high:.2g}" if high < 1e15 else "not in sight")
        return row
