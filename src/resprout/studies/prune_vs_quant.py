"""Prune or quantise, at equal compression? Asked of every tensor, of small pieces of every layer, and of whole networks.

Kuzmin, Nagel, van Baalen, Behboodi, Blankevoort: "Pruning vs Quantization: Which is Better?", NeurIPS 2023,
arXiv:2307.02973. b bits stand against a sparsity of 1 - b / 16, the cost of the mask left out. Whole networks are compared with
what this package puts into its files: integers with a scale per channel, rounded after training and not trained as integers.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import find
from ..api import prune
from ..compare.statistics import Difference, paired, spread
from ..compare.train import train
from ..core.errors import ResproutError, nearest
from ..core.kinds import Fidelity
from ..core.masks import prunable
from ..core.run import mix
from ..core.store import load_tensors, save_tensors
from ..core.task import Task
from ..deploy.file import load, save
from ..deploy.quantise import grams
from ..evaluate import layer_error
from ..evaluate.outputs import outputs
from ..evaluate.sqnr import (
    Symmetric,
    best_scale,
    decibel,
    kurtosis,
    pruning_sqnr,
    quantised,
    quantiser_sqnr,
    sparsity_of,
)
from ..fit import fit
from ..methods.recipe.gmp import Gmp
from ..report.figure import Figure, bars, lines
from ._kept import kept
from ._study import Finding, Study, Tell, silent

LEVELS = ("weight", "layer", "model")
VALUES = {8: "int8", 4: "int4"}  # the integers that a file can hold
MOST = 200.0  # dB: more is as good as no error
BATCHES = 16  # of training data that a layer's inputs are taken from
LAWS = (Symmetric("gaussian"), Symmetric("laplace"), *(Symmetric("student", f) for f in (10, 5, 3)))


@dataclass(frozen=True)
class PruneVsQuant(Study):
    """Signal-to-noise ratios of weights, exact least errors of pieces of layers, and test accuracies of networks.

    Attributes:
        task, model, data: as in `compare`.
        weights: file of a dense network; without, one is trained for `dense_epochs` for each seed.
        levels: of "weight", "layer" and "model", those that are asked; with a file of weights, "weight" needs no data.
        bits: rising; "weight" and "layer".
        problems: pieces of each layer and seed: one output and `size` of its inputs at random. `size` times bits is a multiple
            of 16.
        epochs: the gradual pruning of whole networks; the network that is rounded is trained for as many more.
        seeds, lr: of every training.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    levels: tuple[str, ...] = LEVELS
    bits: tuple[int, ...] = (2, 4, 6, 8)
    problems: int = 40
    size: int = 8
    dense_epochs: float = 12
    epochs: float = 8
    lr: float = 0.1
    seeds: int = 5
    claim: ClassVar[str] = (
        "At equal compression quantisation is better than pruning, of weights, layers and networks; pruning wins only sometimes, "
        "at 2 bits and with heavy tails."
    )
    key: ClassVar[str | None] = "prune-vs-quant"
    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __post_init__(self) -> None:
        for level in self.levels:
            if level not in LEVELS:
                raise nearest(level, LEVELS, "level")
        if not self.levels or self.seeds < 1 or self.problems < 1:
            raise ResproutError("levels, seeds and problems must not be empty or 0")
        if not self.bits or sorted(set(self.bits)) != list(self.bits) or not 2 <= self.bits[0] <= self.bits[-1] <= 16:
            raise ResproutError(f"bits must be rising whole numbers from 2 to 16, got {self.bits!r}")
        if "layer" in self.levels and any(self.size * b % 16 for b in self.bits):
            raise ResproutError(
                f"size times bits must be a multiple of 16 for a whole number of weights, got size={self.size}"
            )

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it."""
        began = time.monotonic()
        asks: dict[str, Callable[[nn.Module, Task, int, Path], Any]] = {
            "weight": self._weights, "layer": self._layers, "model": self._networks,
        }  # fmt: skip
        task = self._task()
        found: dict[str, list[Any]] = {level: [] for level in self.levels}
        for seed in range(self.seeds):
            model = self._dense(task, seed, folder)
            for i, level in enumerate(self.levels):
                tell(f"{level} level, seed {seed}", (seed + i / len(self.levels)) / self.seeds)
                question = {n: getattr(self, n) for n in ("model", "weights", "dense_epochs", "epochs", "lr")}
                question |= {
                    "bits": self.bits,
                    "problems": self.problems,
                    "size": self.size,
                    "level": level,
                    "seed": seed,
                }
                question |= {"task": repr(task)}

                def answer(level: str = level, seed: int = seed, model: nn.Module = model) -> dict[str, Any]:
                    return {"rows": asks[level](model, task, seed, folder)}

                found[level].append(kept(folder / "answers", question, answer)["rows"])
        return dataclasses.replace(self._found(found), seconds=time.monotonic() - began)

    def _task(self) -> Any:
        """The task; None where no data are needed."""
        if self.weights is not None and self.levels == ("weight",) and self.data is None:
            return None
        return find.task(self.task, None if self.data is None else Path(self.data), self.model)

    def _dense(self, task: Task, seed: int, folder: Path) -> nn.Module:
        """The dense network of a seed, trained once."""
        model = find.network(
            self.model, None if self.weights is None else Path(self.weights), mix(seed, "network") % 2**31
        )
        if self.weights is not None:
            return model
        named = {"task": repr(task), "model": self.model, "epochs": self.dense_epochs, "lr": self.lr, "seed": seed}
        file = folder / "dense" / f"{mix(0, *map(str, named.values())):014x}.safetensors"
        if file.exists():
            model.load_state_dict(load_tensors(file)[0])
        else:
            train(model, task, max(1, round(self.dense_epochs * task.steps_per_epoch)), seed=seed, lr=self.lr)
            save_tensors(file, model.state_dict(), named)
        return model

    def _weights(self, model: nn.Module, task: Task, seed: int, folder: Path) -> list[dict[str, Any]]:
        return advise({n: w.detach() for n, w in prunable(model).items()}, self.bits)

    def _layers(self, model: nn.Module, task: Task, seed: int, folder: Path) -> list[dict[str, Any]]:
        """Pieces of layers: the least errors that are possible, and those of magnitude and of the nearest integers."""
        weights = {n: w.detach() for n, w in prunable(model).items()}
        data = [b for _, b in zip(range(BATCHES), task.batches("train", seed=mix(seed, "inputs")), strict=False)]
        rows = []
        for name, gram in grams(model, list(weights), data):
            draw, matrix = np.random.default_rng(mix(seed, name)), weights[name].flatten(1).double().numpy()
            size = min(self.size, matrix.shape[1])
            if size < self.size:
                continue
            scales = {b: best_scale(weights[name], b) for b in self.bits}
            for _ in range(self.problems):
                out, at = int(draw.integers(len(matrix))), draw.choice(matrix.shape[1], size, replace=False)
                h = gram[out * len(gram) // len(matrix)].double().numpy()[np.ix_(at, at)]
                rows += [{"tensor": name} | row for row in _piece(h, matrix[out, at], scales)]
        return rows

    def _networks(self, model: nn.Module, task: Task, seed: int, folder: Path) -> list[dict[str, Any]]:
        """Whole networks: with no more training, and with as much more for both."""
        trained, steps = copy.deepcopy(model), max(1, round(self.epochs * task.steps_per_epoch))
        train(trained, task, steps, seed=seed, lr=self.lr)
        rows = []
        data = [b for _, b in zip(range(BATCHES), task.batches("train", seed=mix(seed, "inputs")), strict=False)]
        for bits, values in VALUES.items():
            sparsity, twin = sparsity_of(bits), copy.deepcopy(model)
            result = fit(
                twin, task, sparsity, recipe=Gmp(), epochs=self.epochs, curve=False, seed=seed, out=folder / "runs"
            )
            rows.append(_row(twin, task, "gradual pruning", bits, result.bytes))
            rows.append(self._rounded("integers after as much training", trained, task, bits, values, folder, data))
            cut = copy.deepcopy(model)
            masks = prune(cut, sparsity, allocate="uniform")
            size = save(folder / "files" / "cut.rsp", cut, masks)
            rows.append(_row(cut, task, "one cut, no training", bits, size))
            rows.append(self._rounded("integers, no training", model, task, bits, values, folder, data))
        return rows

    def _rounded(
        self, arm: str, model: nn.Module, task: Task, bits: int, values: str, folder: Path, data: list[Any]
    ) -> dict[str, Any]:
        file, twin = folder / "files" / "integers.rsp", copy.deepcopy(model)
        size = save(file, model, values=values, data=data)
        return _row(load(file, twin), task, arm, bits, size)

    # -- what follows ----------------------------------------------------------------------------------------------

    def _found(self, found: Mapping[str, list[Any]]) -> Finding:
        tables: dict[str, Any] = {"Distributions": [_law(law, self.bits) for law in LAWS]}
        gaps, said, figures = [], [], []
        if "weight" in found:
            table, figure, by_bits = self._of_weights(found["weight"])
            tables["Advice for each tensor (seed 0)"] = found["weight"][0]
            tables["Quantiser against pruning, of tensors"] = table
            gaps += [d for b, d in by_bits.items() if b >= 4]
            said.append(f"of the weights {_least(by_bits)}")
            figures.append(figure)
        if "layer" in found:
            table, by_bits = self._of_layers(found["layer"])
            tables["Exact least errors of pieces of layers"] = table
            gaps += [d for b, d in by_bits.items() if b >= 4]
            said.append(f"of the layers' outputs {_least(by_bits)}")
        parts = [f"rounding leaves {' and '.join(said)} of signal-to-noise ratio more than pruning"] if said else []
        if "model" in found:
            table, figure, by_bits = self._of_networks(found["model"])
            tables["Whole networks"] = table
            gaps += by_bits.values()
            parts.append(f"whole networks of equal training are {_all(by_bits)} points better rounded than pruned")
            figures.append(figure)
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        verdict = f"At equal compression {', and '.join(parts)} (95 % intervals, {seeds})."
        holds: bool | None = None
        if self.seeds > 1 and gaps:
            holds = False if any(g.high < 0 for g in gaps) else True if all(g.low > 0 for g in gaps) else None
        return Finding(verdict, holds, tables, tuple(figures))

    def _of_weights(self, seeds: list[Any]) -> tuple[list[dict[str, Any]], Figure, dict[int, Difference]]:
        gaps, table = {}, []
        for b in self.bits:
            rounding = [[r[f"rounding, {b} bits"] for r in rows] for rows in seeds]
            pruning = [[r[f"pruning, {b} bits"] for r in rows] for rows in seeds]
            gaps[b] = paired(rounding, pruning)  # pyright: ignore[reportArgumentType]
            wins = int(np.sum(np.array(pruning) > np.array(rounding)))
            table.append({"bits": b, "sparsity": sparsity_of(b), "rounding - pruning (dB)": gaps[b].mean, "low": gaps[b].low,
                          "high": gaps[b].high, "tensors where pruning wins": f"{wins} of {np.size(pruning)}"})  # fmt: skip
        series = {
            way: {
                "x": self.bits,
                "y": [float(np.mean([r[f"{way}, {b} bits"] for rows in seeds for r in rows])) for b in self.bits],
            }
            for way in ("rounding", "pruning")
        }
        words = (
            "Mean signal-to-noise ratio of the tensors after rounding to so many bits, and after pruning as much away."
        )
        return table, lines("What is left of the weights", series, "bits per weight", "SQNR (dB)", words=words), gaps

    def _of_layers(self, seeds: list[Any]) -> tuple[list[dict[str, Any]], dict[int, Difference]]:
        gaps, table = {}, []
        for b in self.bits:
            of = [[r for r in rows if r["bits"] == b] for rows in seeds]
            if not of[0]:
                raise ResproutError(f"no layer has {self.size} inputs: lower size")

            def column(name: str, of: list[list[dict[str, Any]]] = of) -> np.ndarray:
                return np.array([[r[name] for r in rows] for rows in of])

            rounding, pruning = column("best rounding"), column("best mask")
            gaps[b] = paired(rounding, pruning)
            facts = {"bits": b, "rounding - pruning (dB)": gaps[b].mean, "low": gaps[b].low, "high": gaps[b].high}
            facts["pieces where pruning wins"] = float((pruning > rounding).mean())
            facts["best mask over magnitude (dB)"] = float((pruning - column("magnitude")).mean())
            facts["best rounding over nearest (dB)"] = float((rounding - column("nearest")).mean())
            table.append(facts)
        return table, gaps

    def _of_networks(self, seeds: list[Any]) -> tuple[list[dict[str, Any]], Figure, dict[int, Difference]]:
        arms = list(dict.fromkeys(r["arm"] for r in seeds[0]))
        of = {
            (a, b): [r for rows in seeds for r in rows if (r["arm"], r["bits"]) == (a, b)] for a in arms for b in VALUES
        }
        rights = {where: np.array([[100.0 * x for x in r["right"]] for r in rows]) for where, rows in of.items()}
        table = []
        for (arm, b), right in rights.items():
            mean, deviation = spread(right.mean(1).tolist())
            facts = {"arm": arm, "bits": b, "sparsity": sparsity_of(b), "test %": mean}
            facts["std"] = deviation if len(right) > 1 else None
            table.append(facts | {"bytes of the file": round(np.mean([r["bytes"] for r in of[arm, b]]))})
        gaps = {b: paired(rights[arms[1], b], rights[arms[0], b]) for b in VALUES}
        series = {
            a: {"x": [f"{b} bits" for b in VALUES], "y": [float(rights[a, b].mean()) for b in VALUES]} for a in arms
        }
        words = "At 8 bits half of the weights are pruned, at 4 bits three quarters."
        return (
            table,
            bars("Networks at equal compression", series, "compression", "test accuracy (%)", words=words),
            gaps,
        )


def advise(weights: Mapping[str, Tensor], bits: Sequence[int] = (2, 4, 6, 8)) -> list[dict[str, Any]]:
    """Return for each tensor what pruning and rounding leave of it at equal compression, its kurtosis, and who wins.

    Args:
        weights: name -> tensor.
        bits: whole numbers from 2, rising; b bits stand against a sparsity of 1 - b / 16.

    Returns:
        rows of "tensor", "weights", "kurtosis", "pruning, b bits" and "rounding, b bits" in dB, "winner" (at each number of
        bits), and "crossover": the most bits at which pruning wins, None where it never does.

    Raises:
        ResproutError: an empty tensor, NaN or infinity.
    """
    return [
        {"tensor": n, "weights": w.numel(), "kurtosis": kurtosis(w)}
        | _compared(bits, lambda s, w=w: pruning_sqnr(w, s), lambda b, w=w: quantiser_sqnr(w, b))
        for n, w in weights.items()
    ]


def _law(law: Symmetric, bits: Sequence[int]) -> dict[str, Any]:
    name = law.name if law.name != "student" else f"student, {law.freedom:g} degrees of freedom"
    return {"distribution": name, "kurtosis": law.kurtosis if law.freedom > 4 else None} | _compared(
        bits, law.pruning_sqnr, law.quantiser_sqnr
    )


def _compared(
    bits: Sequence[int], pruning: Callable[[float], float], rounding: Callable[[int], float]
) -> dict[str, Any]:
    """Both at each number of bits, the winners, and the crossover."""
    left = {b: (min(pruning(sparsity_of(b)), MOST), min(rounding(b), MOST)) for b in bits}
    facts: dict[str, Any] = {}
    for b, (pruned, rounded) in left.items():
        facts |= {f"pruning, {b} bits": pruned, f"rounding, {b} bits": rounded}
    wins = [b for b, (pruned, rounded) in left.items() if pruned > rounded]
    winner = "pruning" if len(wins) == len(bits) else f"pruning at {', '.join(map(str, wins))} bits, else rounding"
    return facts | {"winner": winner if wins else "rounding", "crossover": max(wins, default=None)}


def _piece(h: np.ndarray, w: np.ndarray, scales: Mapping[int, float]) -> list[dict[str, Any]]:
    """The output's signal-to-noise ratio of one piece of a layer, at each number of bits."""
    signal, rows = layer_error.output_error(h, w), []
    for bits, scale in scales.items():
        if signal <= 0 or scale <= 0:  # dead inputs: there is nothing to lose
            errors = dict.fromkeys(("best mask", "magnitude", "best rounding", "nearest"), 0.0)
            rows.append({"bits": bits} | errors)
            continue
        keep = len(w) * bits // 16
        largest = np.isin(np.arange(len(w)), np.argsort(-np.abs(w), kind="stable")[:keep])
        rounded = quantised(torch.from_numpy(w), bits, scale).numpy()
        errors = {
            "best mask": layer_error.best_mask(h, w, keep)[1],
            "magnitude": layer_error.output_error(h, np.where(largest, 0.0, w)),
            "best rounding": layer_error.best_rounding(h, w, bits, scale)[1],
            "nearest": layer_error.output_error(h, w - rounded),
        }
        rows.append({"bits": bits} | {n: min(decibel(signal, e), MOST) for n, e in errors.items()})
    return rows


def _row(model: nn.Module, task: Task, arm: str, bits: int, size: int) -> dict[str, Any]:
    if (said := outputs(model, task, "test")) is None:
        raise ResproutError("the model level is for classification of (inputs, labels): leave it out of levels")
    return {"arm": arm, "bits": bits, "bytes": size, "right": said.right.int().tolist()}


def _all(gaps: Mapping[int, Difference]) -> str:
    return " and ".join(f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}] ({b} bits)" for b, d in gaps.items())


def _least(gaps: Mapping[int, Difference]) -> str:
    b, d = min(gaps.items(), key=lambda item: item[1].mean)
    return f"at least {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}] dB (at {b} bits)"
