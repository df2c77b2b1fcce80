"""One cell of a comparison: one arm, one budget, one seed; everything that determines it, and what it found.

A cell lives in a folder named after a hash of its settings, so that the same cell is never run twice: `cell.json` says what
to do, `run/` is the resumable run, `outputs.safetensors` what the network says of every test sample, `row.json` the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core import store
from ..core.errors import CheckpointError, ResproutError
from .arms import DENSE, Arm, parse


@dataclass(frozen=True)
class Settings:
    """What all cells of a comparison share: network, data and training budget.

    Attributes:
        task: its name, or "file.py:function".
        model: its name, or "file.py:function".
        data: folder of the task's data.
        weights: safetensors with the trained dense network; without, each seed trains its own for `dense_epochs`.
        epochs: training budget of every arm, in epochs.
        dense_epochs: of the dense network.
        granularity, values, precision: as in `fit`.
        about: what the task says of itself, its data's fingerprint included.
        cap: the most that the control "scratch_compute" may train, in times `epochs`.
    """

    task: str = "digits"
    model: str = "digits_cnn"
    data: str | None = None
    weights: str | None = None
    epochs: float = 8.0
    dense_epochs: float = 0.0
    granularity: str = "weight"
    values: str = "fp16"
    precision: str = "auto"
    about: str = ""
    cap: float = 4.0

    @cached_property  # weights are read once, not at every look at a cell
    def identity(self) -> dict[str, Any]:
        """What a cell's name depends on: settings that are not the default, and content, not where it lies."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "data"}
        found = {n: v for n, v in own.items() if n in ("task", "model", "epochs") or v != getattr(Settings, n)}
        if self.weights is not None:
            try:
                found["weights"] = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()[:16]
            except OSError as error:
                raise ResproutError(f"weights: {error}") from error
        return found


@dataclass(frozen=True)
class Cell:
    """One arm at one budget with one seed.

    Attributes:
        settings: shared by all cells.
        arm: what is run; None for the dense network of a seed.
        budget: as asked for; "" for the dense network.
        seed: of everything random.
    """

    settings: Settings
    arm: Arm | None
    budget: str
    seed: int

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The cells that must be finished before this one."""
        if self.arm is None:
            return ()
        dense = dataclasses.replace(self, arm=None, budget="")
        if self.arm.of is None:
            return (dense,)
        return (dense, dataclasses.replace(self, arm=self.arm.of))

    @property
    def key(self) -> str:
        """A hash of all that determines the result."""
        arm = None if self.arm is None else [self.arm.config, self.arm.of and self.arm.of.config]
        what = [self.settings.identity, arm, self.budget, self.seed]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.arm.label if self.arm else DENSE} {self.budget} seed {self.seed}".replace("  ", " ")

    def folder(self, root: Path) -> Path:
        """Where it lives."""
        return root / "cells" / self.key

    def row(self, root: Path) -> dict[str, Any] | None:
        """What it found, or None where it has not finished.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self.folder(root) / "row.json"
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged ({error}); delete it to run this cell again") from error

    def write(self, root: Path) -> Path:
        """Write `cell.json`, and return it."""
        facts = {"settings": dataclasses.asdict(self.settings), "budget": self.budget, "seed": self.seed}
        facts["arm"] = None if self.arm is None else self.arm.label
        file = self.folder(root) / "cell.json"
        store.write(file, json.dumps(facts, indent=1).encode())
        return file

    @classmethod
    def read(cls, file: Path) -> Cell:
        """Read what `write` wrote.

        Raises:
            CheckpointError: it is not there or damaged.
        """
        try:
            facts = json.loads(file.read_text())
            arm = None if facts["arm"] is None else parse(facts["arm"])
            return cls(Settings(**facts["settings"]), arm, facts["budget"], facts["seed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is no cell of a comparison ({error!r})") from error
