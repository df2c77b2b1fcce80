"""Populations of networks: some dense, some compressed during training, each from its own seed; not a study.

They lie beside the folders of the studies, one folder a network, named by all that decides it: studies that ask for the same
networks share them, and a study that was stopped goes on within a training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import find
from ..core import store
from ..core.errors import ResproutError, check_sparsity
from ..core.kinds import Allocation, Rule
from ..core.run import Run, mix
from ..core.task import Task
from ..core.train import Train
from ..evaluate.outputs import Outputs, outputs
from ..methods.allocate.uniform import Uniform
from ..methods.rule.gradual import Gradual
from ..methods.schedule.cosine import Cosine
from ..methods.schedule.cubic import Cubic
from ._study import Tell, silent

DENSE, AGAIN = "dense", "dense again"  # the second is what chance alone does, and sees what no choice was made on


@dataclass(frozen=True, eq=False)
class Population:
    """How the networks of a population are trained: all for as many steps, the compressed ones while they are cut.

    Attributes:
        folder: where they are kept.
        task: what they learn; their outputs are those on its test split.
        make: seed -> a new network.
        steps: optimizer steps of each.
        models: networks of each level.
        lr: peak learning rate.
        allocate: how a sparsity is shared among layers.
        until: the fraction of the steps after which the sparsity stands.
        precision: "fp32", or "bf16" for autocast.
        seed: of the seeds.
    """

    folder: Path
    task: Task
    make: Callable[[int], nn.Module]
    steps: int
    models: int = 10
    lr: float = 0.1
    allocate: Allocation = Uniform()  # noqa: RUF009
    until: float = 0.75
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.models < 3:
            raise ResproutError(f"models must be 3 or more (5 at the least to be believed), got {self.models}")
        if self.steps < 1:
            raise ResproutError(f"a network needs a training step, got {self.steps}; raise epochs")

    def all(self, levels: Mapping[str, float], tell: Tell = silent) -> dict[str, list[Outputs]]:
        """Return what every network says of the test split: label -> one per network.

        Args:
            levels: label -> sparsity; populations of different labels have different seeds.
            tell: called with what is under way and the share done.
        """
        wanted = [(label, i) for label in levels for i in range(self.models)]
        found: dict[str, list[Outputs]] = {label: [] for label in levels}
        for at, (label, i) in enumerate(wanted):
            tell(f"{label}, network {i + 1} of {self.models}", at / len(wanted))
            found[label].append(self.member(label, levels[label], i))
        return found

    def member(self, label: str, sparsity: float, index: int) -> Outputs:
        """Return what one network says of the test split; it is trained unless it has been."""
        seed = mix(self.seed, label, index)
        network, rule = self.make(seed), Rule()
        if check_sparsity(sparsity) > 0:
            every = max(1, self.steps // 32)
            rule = Gradual(
                Cubic(0.0, sparsity), until=self.until, every=every, allocate=self.allocate, floor=1
            )  # a layer without weights would pass nothing
        step = Train(self.steps, Cosine(self.lr, 0.0, warmup=0.1), rule=rule, looks=1)
        config = {"step": store.configuration(step), "seed": seed, "task": repr(self.task)}
        config |= {"network": f"{type(network).__name__}-{store.checksum(network.state_dict())[:16]}"}
        place = store.RunFolder(
            self.folder, f"{label.replace(' ', '-')}-{index}", config | {"precision": self.precision}
        )
        file = place.path / "outputs.safetensors"
        if file.exists():
            return Outputs.read(file)
        with place.lock():
            run = Run(network, self.task, seed=seed, folder=place, precision=self.precision, channels_last=True)
            run.resume()
            run.do(step)
            said = outputs(network, self.task, "test")
            if said is None:
                raise ResproutError(f"task {self.task!r} does not classify; populations are compared by their labels")
            said.save(file)
            for kept in (place.path / "checkpoint.safetensors", *place.path.glob("point-*.safetensors")):
                kept.unlink(missing_ok=True)  # what is asked of a network are its outputs
        return said


def population(
    folder: Path, task: str, model: str, data: str | None, weights: str | None, epochs: float, **how: Any
) -> Population:
    """Return the population of a named task and model; `how` is the rest of `Population`.

    With `weights` all networks start there and differ by the order of the data only.
    """
    chosen = find.task(task, None if data is None else Path(data), model)
    file = None if weights is None else Path(weights)
    return Population(
        folder.parent / "_population", chosen, lambda seed: find.network(model, file, seed),
        round(epochs * chosen.steps_per_epoch), **how,
    )  # fmt: skip


def levels(sparsities: Sequence[float]) -> dict[str, float]:
    """Return label -> sparsity of the dense population, of a second one, and of each sparsity.

    Raises:
        ResproutError: no sparsity, or one outside (0, 1).
    """
    for sparsity in sparsities:
        if not 0 < check_sparsity(sparsity, "sparsities") < 1:
            raise ResproutError(
                f"sparsities are fractions between 0 and 1, got {sparsity:g}; dense networks are there anyway"
            )
    if not sparsities:
        raise ResproutError("sparsities is empty: give one, such as sparsities=(0.9,)")
    return {DENSE: 0.0, AGAIN: 0.0} | {f"{100 * s:g} %": s for s in sorted(set(sparsities))}


def stacked(members: Sequence[Outputs]) -> Tensor:
    """Return the predicted classes of a population, int64 (networks, samples)."""
    return torch.stack([m.predicted for m in members])


def inputs(task: Task) -> Tensor:
    """Return the inputs of the test split as networks get them, in its order."""
    return torch.cat([batch[0] for batch in task.batches("test")])
