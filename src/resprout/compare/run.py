"""Run one cell to its end; started again, it goes on where it was stopped. `python -m resprout.compare.run CELL.json`."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import find
from ..core import store
from ..core.errors import TraceError
from ..core.masks import Masks
from ..core.task import Task
from ..deploy import encoding
from ..deploy.file import load, save
from ..deploy.trace import lower
from ..fit import fit, resolved
from .cell import Cell
from .control import start
from .once import Once
from .train import train
from .watch import Watch

Found = tuple[nn.Module, dict[str, Any]]
UNEQUAL = "less training: that of the dense network (weights) is not made up for"


def run(cell: Cell, root: Path) -> dict[str, Any]:
    """Run a cell whose needs have finished, and return its row; a finished one is only read.

    Raises:
        ResproutError: as `fit`; or what it needs has not finished.
    """
    if (done := cell.row(root)) is not None:
        return done
    folder, s = cell.folder(root), cell.settings
    folder.mkdir(parents=True, exist_ok=True)
    task = Once(find.task(s.task, None if s.data is None else Path(s.data), s.model))
    watch = Watch(folder)
    if cell.arm is None:
        network, facts = _dense(cell, task, folder, watch)
    elif cell.arm.of is None:
        network, facts = _arm(cell, task, root, watch)
    else:
        network, facts = _control(cell, task, root, watch)
    with torch.no_grad():
        facts.setdefault("test", task.evaluate(network.eval(), "test")[task.metric])
        said = task.said(network)
    if said is not None:
        said.save(folder / "outputs.safetensors")
        facts |= {"test_loss": said.loss, "calibration_error": said.calibration_error()}
    facts |= {
        "metric": task.metric,
        "arm": cell.arm.label if cell.arm else "dense",
        "asked": cell.budget,
        "seed": cell.seed,
    }
    facts |= {"seconds": round(watch.seconds, 1), "threads": torch.get_num_threads()}
    facts |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    facts |= {"settings": dataclasses.asdict(s)}
    store.write(folder / "row.json", json.dumps(facts, indent=1).encode())
    return facts


def _dense(cell: Cell, task: Task, folder: Path, watch: Watch) -> Found:
    """The dense network of a seed: read, or trained."""
    s = cell.settings
    network = find.network(s.model, Path(s.weights) if s.weights else None, cell.seed)
    steps = round(s.dense_epochs * task.steps_per_epoch)
    facts = _train(cell, network, Masks.dense(network), task, folder, watch, steps, best=True)
    store.save_tensors(folder / "dense.safetensors", network.state_dict(), {})
    return network, facts | {"kind": "dense", "file": "dense.safetensors"}


def _arm(cell: Cell, task: Task, root: Path, watch: Watch) -> Found:
    """A recipe, by `fit`."""
    assert cell.arm is not None
    s, folder = cell.settings, cell.folder(root)
    network = find.network(s.model, cell.needs[0].folder(root) / "dense.safetensors", cell.seed)
    dense, watch.network = copy.deepcopy(network), network
    result = fit(
        network, task, cell.budget, recipe=cell.arm.recipe, epochs=s.epochs, curve=False, seed=cell.seed,
        values=s.values, granularity=s.granularity, precision=s.precision, out=folder, report=watch,
    )  # fmt: skip
    best = result.frontier[-1]
    watch.ended(network, dense, task, {"path": result.path, "counts": result.journal[-1]["counts"]})
    facts = {
        n: getattr(best, n) for n in ("sparsity", "alive", "bytes", "cost", "validation", "test", "steps", "achieved")
    }
    facts |= {"kind": "recipe", "file": os.path.relpath(best.file or folder, folder), "searched": result.searched}
    return network, facts | {"precision": result.config["precision"], "selected_on": result.selected_on}


def _control(cell: Cell, task: Task, root: Path, watch: Watch) -> Found:
    """What another arm has found, trained from new random weights."""
    assert cell.arm is not None
    s, other = cell.settings, cell.needs[1]
    found = other.row(root) or {}
    network = find.network(s.model, None, cell.seed + 1_000_003)  # random weights that no dense network had
    begun = start(cell.arm.config, network, other.folder(root) / found["file"], task, s.cap, cell.seed)
    steps = max(1, round((s.epochs + s.dense_epochs) * begun.times * task.steps_per_epoch))
    facts = _train(cell, begun.model, begun.masks, task, cell.folder(root), watch, steps)
    facts |= {"file": "network.safetensors"}
    facts["bytes"] = _filed(begun.model, begun.masks, cell.folder(root) / facts["file"], s.values, task)
    note = "; ".join(filter(None, (begun.note, UNEQUAL if s.weights else "")))
    return begun.model, facts | {"kind": "control", "of": found["arm"], "times": begun.times, "note": note}


def _train(
    cell: Cell, network: nn.Module, masks: Masks, task: Task, folder: Path, watch: Watch, steps: int, best: bool = False
) -> dict[str, Any]:
    """Train under masks that stand still."""
    s = cell.settings
    run = train(
        network, task, steps, masks=masks, seed=cell.seed, best=best, precision=s.precision, folder=folder,
        config=cell.key, report=watch,
    )  # fmt: skip
    facts = {"sparsity": run.masks.sparsity, "alive": run.masks.alive, "validation": run.here["validation"]}
    facts |= {"bytes": encoding.size(network, run.masks, s.values, None), "steps": run.trained, "searched": 0}
    return facts | {"precision": resolved(s.precision, network, run.masks.total)}


def _filed(network: nn.Module, masks: Masks, file: Path, values: str, task: Task) -> int:
    """Write the network to its file and read it back, as `fit` does with an arm's: what is saved is tested."""
    try:
        traced = lower(network.eval(), next(iter(task.batches("train"))))
    except TraceError:
        traced = None
    size = save(file, network, masks, values=values, example=traced)
    load(file, network)
    return size


if __name__ == "__main__":
    file = Path(sys.argv[1])
    run(Cell.read(file), file.parents[2])
