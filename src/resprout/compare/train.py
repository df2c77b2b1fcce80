"""Train a network under masks that stand still; resumable where there is a folder."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ..core.masks import Masks
from ..core.run import Report, Run
from ..core.steps import Mark
from ..core.store import RunFolder
from ..core.task import Task
from ..core.train import Optimizer, Train
from ..fit import resolved
from ..methods.schedule.cosine import Cosine


def train(
    model: nn.Module,
    task: Task,
    steps: int,
    *,
    masks: Masks | None = None,
    seed: int = 0,
    lr: float = 0.1,
    warmup: float = 0.1,
    optimizer: Optimizer | None = None,
    best: bool = False,
    looks: int = 8,
    precision: str = "fp32",
    folder: Path | None = None,
    config: Any = "",
    report: Report | None = None,
) -> Run:
    """Train `model` in place for `steps` along a cosine from `lr`, and return the run, at its end and in fp32.

    Args:
        model: changed in place.
        task: its data and loss.
        steps: optimizer steps; 0 leaves the network as it is.
        masks: which weights are alive; default all.
        seed: of data order and augmentation.
        lr: peak learning rate.
        warmup: its fraction of the steps.
        optimizer: default SGD with momentum.
        best: end with the best of the `looks` on validation data, not the last.
        looks: evaluations on the way.
        precision: "fp32", "bf16" or "auto".
        folder: where the run is kept and resumed from.
        config: what else names the run there: anything JSON-able that decides what is trained.
        report: as in `fit`.
    """
    precision = resolved(precision, model, Masks.dense(model).total)
    step = Train(steps, Cosine(lr, 0.0, warmup=warmup), optimizer or Optimizer(), looks=looks, best=best)
    place = None if folder is None else RunFolder(folder, "train", {"train": repr(step), "seed": seed, "what": config})
    with nullcontext() if place is None else place.lock():
        run = Run(model, task, masks, seed=seed, folder=place, precision=precision, channels_last=True, report=report)
        run.resume()
        run.set_masks(run.masks)
        if steps:
            run.do(step)
        run.do(Mark("end"))
        run.restore("end")
        run.precision = "fp32"  # devices compute in it; bf16 is for training
    return run
