"""What a cell tells while it runs, and what is kept of its way for the page: the curve, the stump, the damage."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from torch import nn

from ..api import attention_similarity
from ..core import store
from ..core.errors import ResproutError
from ..core.store import load_tensors, save_tensors
from ..core.task import Task

EVERY = 2.0  # seconds between notes of progress
BATCHES = 4  # of validation data that attention maps are compared on


class Watch:
    """Takes the reports of a run; notes progress in `progress.json`, and the network at its sparsest in `stump.safetensors`.

    Args:
        folder: the cell's.
        network: the network under way, where its stump is wanted.
    """

    def __init__(self, folder: Path, network: nn.Module | None = None):
        self.folder, self.network = folder, network
        self._file = folder / "progress.json"
        self._known: dict[str, Any] = {"seconds": 0.0, "losses": []}
        if self._file.exists():
            self._known |= json.loads(self._file.read_text())
        self._before, self._began, self._told = float(self._known["seconds"]), time.monotonic(), 0.0
        self._done, self._step, self._parent = 0, 0, os.getppid()
        self._sparsest, self._shape = -1.0, (0, 0)
        if network is not None and (folder / "stump.safetensors").exists():
            self._sparsest = load_tensors(folder / "stump.safetensors")[1]["sparsity"]

    @property
    def seconds(self) -> float:
        """Spent on this cell, also before it was stopped."""
        return self._before + time.monotonic() - self._began

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Take one report of the run."""
        if event == "train":
            self._shape = (facts["step"], facts["steps"])
            if facts["step"] * 50 // facts["steps"] > (facts["step"] - 1) * 50 // facts["steps"]:
                at = self._done + facts["step"]
                self._known["losses"] = [p for p in self._known["losses"] if p[0] < at] + [
                    [at, round(facts["loss"], 5)]
                ]
        elif event == "step":
            self._done, self._shape = facts["trained"], (0, 0)
        if "sparsity" in facts and facts["sparsity"] > self._sparsest and self.network is not None:
            self._sparsest = facts["sparsity"]
            kept = {"sparsity": facts["sparsity"], "counts": facts["counts"], "trained": facts.get("trained", 0)}
            save_tensors(self.folder / "stump.safetensors", self.network.state_dict(), kept)
        if time.monotonic() - self._told > EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        if os.getppid() != self._parent and "RESPROUT_ENGINE" in os.environ:
            raise SystemExit("the engine that started this cell is gone; started again, it goes on from here")
        self._known |= {"seconds": round(self.seconds, 1), "trained": self._done + self._shape[0], "pid": os.getpid()}
        store.write(self._file, json.dumps(self._known).encode())

    def ended(self, network: nn.Module, dense: nn.Module, task: Task, facts: dict[str, Any]) -> None:
        """Write `detail.json`: the way (`facts`), weights alive per layer, and how damaged each layer is."""
        detail = facts | {"losses": self._known["losses"]}
        batches = [b for _, b in zip(range(BATCHES), task.batches("validation"), strict=False)]
        damage = {"end": _similarity(dense, network, batches)}
        file = self.folder / "stump.safetensors"
        if file.exists():
            tensors, stump = load_tensors(file)
            now = {n: t.clone() for n, t in network.state_dict().items()}
            network.load_state_dict(tensors, strict=False)
            detail["stump"] = stump
            damage["stump"] = _similarity(dense, network, batches)
            network.load_state_dict(now)
            file.unlink()
        store.write(self.folder / "detail.json", json.dumps(detail | {"damage": damage}).encode())


def _similarity(dense: nn.Module, sparse: nn.Module, batches: list[Any]) -> dict[str, float]:
    """Per layer, or nothing where networks have no attention maps."""
    try:
        return attention_similarity(dense, sparse, batches)
    except (ResproutError, RuntimeError):
        return {}
