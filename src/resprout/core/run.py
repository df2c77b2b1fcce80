"""Run: the one mutable object, and how it is checkpointed and resumed.

A recipe is ordinary code that calls `run.do(step)`. What each step returned is kept in the journal; a resumed run walks
the recipe again from its first line, is handed the kept answers for the steps that are done, and goes on - in the
middle of a `Train` if need be - from the checkpoint. So whatever a recipe decides on (measured accuracies, say) is
decided in the same way again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import store
from .errors import CheckpointError, ResproutError
from .granularity import Granularity, Weight
from .hold import change_masks, guards, unwrap
from .kinds import Fill, Step
from .masks import Masks
from .modes import evaluating
from .probe import Loss, Probe
from .task import Split, Task
from .units import Group, residual, revived

Report = Callable[[str, dict[str, Any]], None]


def silent(event: str, facts: dict[str, Any]) -> None:
    """Report nothing."""


def mix(seed: int, *labels: object) -> int:
    """Return a seed that depends on all arguments, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *labels)).encode()).digest()[:7], "big")


def ranks() -> tuple[int, int]:
    """Return (rank, world size) of the process group, (0, 1) without one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def synchronise(tensors: Iterable[Tensor]) -> None:
    """Give every rank the tensors of rank 0."""
    if ranks()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def agree(masks: Masks) -> None:
    """Check that all ranks have the same masks.

    Raises:
        ResproutError: they differ.
    """
    rank, world = ranks()
    if world == 1:
        return
    digests: list[str] = [""] * world
    dist.all_gather_object(digests, masks.digest())
    if len(set(digests)) > 1:
        odd = [r for r, d in enumerate(digests) if d != digests[0]]
        raise ResproutError(
            f"rank {rank}: ranks {odd} chose other masks than rank 0; scores must be computed from the same weights and "
            "averaged gradients on every rank (see Probe), and from no local randomness"
        )


class Run:
    """A network on its way through a recipe.

    Args:
        model: the network; it is changed in place.
        task: its data, loss and metrics.
        masks: which weights are alive at the start; default all prunable ones.
        seed: decides data order, augmentation and every random choice.
        folder: where the run is kept and resumed from; None keeps nothing.
        precision: "fp32", or "bf16" for bfloat16 autocast.
        channels_last: give 4-D inputs to the network in that memory format.
        probe_batches: training batches that scores look at.
        report: called with (event, facts), for progress and the journey.
        save_every: seconds between checkpoints within a step.
        granularity: what one unit is: what steps count, cut and regrow unless they say otherwise.
        groups: the coupled channels of the network, for structured granularities.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        masks: Masks | None = None,
        *,
        seed: int = 0,
        folder: store.RunFolder | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        probe_batches: int = 8,
        report: Report | None = None,
        save_every: float = 30.0,
        granularity: Granularity = Weight(),  # noqa: B008
        groups: Sequence[Group] = (),
    ):
        if precision not in ("fp32", "bf16"):
            raise ResproutError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
        self.model = unwrap(model)
        self.task = task
        self.masks = Masks.dense(self.model) if masks is None else masks
        self.seed, self.folder = seed, folder
        self.precision, self.channels_last = precision, channels_last
        self.probe_batches, self.save_every = probe_batches, save_every
        self.granularity, self.groups = granularity, tuple(groups)
        self.report = report or silent
        self.journal: list[dict[str, Any]] = []
        self.points: dict[str, dict[str, Tensor]] = {}
        self.slots: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.trained = 0  # optimizer steps on the path itself
        self.searched = 0  # optimizer steps of forks
        self.live: dict[str, Tensor] | None = None  # gradients of the step under way, while a rule looks at them
        self.chooses_on: Split = "validation"  # "test" only to follow a paper's protocol, and then labelled
        self.rows = 1  # samples in the batch under way, over all ranks
        self.partial: dict[str, Any] = {}  # where a resumed step was
        self._files: dict[str, str] = {}  # the file of each point
        self._done = 0  # steps of this walk through the recipe
        self._saved_at = time.monotonic()
        self._doing = ""  # the step under way
        self._anchor_probes: dict[str, Probe] = {}
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise ResproutError(f"the weights of {name!r} hold NaN or infinity; load a sound checkpoint first")

    # -- what methods may use ----------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def anchor(self) -> dict[str, Tensor] | None:
        """The dense network's tensors, from the point named "dense"."""
        return self.points.get("dense")

    def weights(self) -> dict[str, Tensor]:
        """Return the prunable parameters."""
        params = dict(self.model.named_parameters())
        return {n: params[n] for n in self.masks}

    @property
    def units(self) -> Masks:
        """Which units are alive: the masks themselves where a unit is a weight."""
        return self.granularity.units(self.masks, self.groups)

    def probe_with(
        self,
        data: Sequence[Any] | Callable[[], Sequence[Any]] | None = None,
        loss: Loss | None = None,
        anchor: Mapping[str, Tensor] | None = None,
        live: dict[str, Tensor] | None = None,
        live_fisher: dict[str, Tensor] | None = None,
    ) -> Probe:
        """Return a probe of the network as it stands with what is given, the run's groups and its seed."""
        seed = mix(self.seed, self.trained)
        probe = Probe(self.model, self.masks, data, loss, anchor, seed, live, live_fisher)
        probe.groups = self.groups
        return probe

    def generator(self, *labels: object) -> torch.Generator:
        """Return a generator that depends on the run's seed, the steps trained, and `labels`."""
        return torch.Generator().manual_seed(mix(self.seed, self.trained, *labels))

    def samples(self, label: str = "probe") -> list[Any]:
        """Return `probe_batches` training batches, the same for the same label."""
        batches = self.task.batches("train", seed=mix(self.seed, label), shard=ranks())
        return [b for _, b in zip(range(self.probe_batches), batches, strict=False)]

    def probe(self, label: str = "probe") -> Probe:
        """Return a probe of the network as it stands, on `probe_batches` training batches (live gradients if any)."""
        probe = self.probe_with(lambda: self.samples(label), self.task.loss, self.anchor, self.live)
        if self.anchor is not None:  # what is asked of the dense network is asked once
            if label not in self._anchor_probes:
                self._anchor_probes[label] = probe.at_anchor()
            dense = self._anchor_probes[label]
            dense.seed = mix(self.seed, label)  # whenever it is first asked, or a resumed run would differ
            probe._at_anchor = dense
        return probe

    @torch.no_grad()
    def set_masks(
        self, masks: Masks, fill: Fill | None = None, values: Mapping[str, Tensor] | None = None
    ) -> dict[str, int]:
        """Put new masks in force: the only way masks change.

        Zeroes the dead, gives the reborn the values of `values` or of `fill` (default zero), and clears the
        optimizer's state of both.

        Returns:
            {"died": ..., "reborn": ...} in weights.

        Raises:
            ResproutError: masks of another model, or ranks that disagree.
        """
        agree(masks)
        draw, beside = self.generator("fill"), residual(self.groups)
        moved = change_masks(self.model, self.masks, masks, fill, self.anchor, draw, values, beside)
        if self.groups and moved["reborn"] and self.anchor is not None:
            revived(self.model, self.groups, self.masks, masks, self.anchor)
        self.masks = masks
        return moved

    def metrics(self, split: Split | None = None) -> dict[str, float]:
        """Return all that the task measures on `split` (default: the one that choices go by), in evaluation mode."""
        with evaluating(self.model):
            synchronise(self.model.buffers())  # each rank's norms have seen other data
            with torch.no_grad(), self.autocast(), torch.random.fork_rng(devices=[]):
                return self.task.evaluate(self.model, split or self.chooses_on)

    def evaluate(self, split: Split | None = None) -> float:
        """Return the task's metric on `split`, as `metrics` does. Every rank gets that of rank 0."""
        found = float(self.metrics(split)[self.task.metric])
        value = torch.tensor(found, dtype=torch.float64, device=self.device)
        synchronise([value])
        return float(value)

    def autocast(self) -> torch.autocast:
        """The run's precision as a context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def fork(self, report: Report | None = None) -> Run:
        """Return a copy that tries something: same network, masks, points and seed; no folder, no journal."""
        model = copy.deepcopy(self.model)
        for guard in guards(model):
            guard.release()
        twin = Run(
            model, self.task, self.masks, seed=self.seed, precision=self.precision, channels_last=self.channels_last,
            probe_batches=self.probe_batches, report=report, granularity=self.granularity, groups=self.groups,
        )  # fmt: skip
        twin.points, twin.trained, twin.chooses_on = dict(self.points), self.trained, self.chooses_on
        return twin

    # -- points ------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> None:
        """Keep the network as it stands (and its masks) under `name`, to come back to."""
        state = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        self.points[name] = state | {f"mask:{n}": m for n, m in self.masks.items()}
        if name == "dense":
            self._anchor_probes = {}
        # An older file of this name serves until the next checkpoint.
        self._files[name] = f"point-{name}-{len(self.journal)}.safetensors"
        if self.folder is not None and ranks()[0] == 0:
            store.save_tensors(self.folder.path / self._files[name], self.points[name], {"trained": self.trained})

    def tensors_at(self, name: str) -> dict[str, Tensor]:
        """Return the `state_dict` that was kept under `name`."""
        return {n: t for n, t in self.points[name].items() if not n.startswith("mask:")}

    def restore(self, name: str, masks: bool = True) -> None:
        """Go back to the point `name`: weights, buffers and (by default) masks; the optimizer is forgotten.

        Raises:
            ResproutError: no such point.
        """
        if name not in self.points:
            raise ResproutError(f"no point {name!r} was marked; there are: {', '.join(self.points) or 'none'}")
        for guard in guards(self.model):
            guard.release()
        self.optimizer = None
        self.model.load_state_dict(self.tensors_at(name))
        if masks:
            self.masks = Masks({n: self.points[name][f"mask:{n}"] for n in self.masks})
        self.set_masks(self.masks)

    # -- the journal -------------------------------------------------------------------------------------------

    def do(self, step: Step) -> dict[str, Any]:
        """Do `step` and return its facts; or return them from the journal if a resumed run has done it already.

        Raises:
            CheckpointError: the journal has another step at this place (the recipe's code has changed).
        """
        place, name = self._done, store.configuration(step)
        self._done += 1
        if place < len(self.journal):
            record = self.journal[place]
            if record["do"] != name:
                raise CheckpointError(
                    f"step {place} of the kept run was {record['do']}, and now it is {name}: the recipe has changed; "
                    "delete the run folder or use another seed"
                )
            return record
        if self.partial and self.partial["do"] != name:
            raise CheckpointError(
                f"the kept run was within {self.partial['do']}, and now comes {name}: the recipe has changed; "
                "delete the run folder or use another seed"
            )
        self._doing, began = name, time.monotonic()
        facts = step(self)
        record = {"do": name, "step": type(step).__name__, "trained": self.trained, "searched": self.searched}
        record |= facts | self.state() | {"seconds": round(time.monotonic() - began, 3)}
        record = json.loads(json.dumps(record))  # what a resumed run will read: lists for tuples, strings for keys
        self.journal.append(record)
        self.partial = {}
        self.save()
        self.report("step", record)
        return record

    def state(self) -> dict[str, Any]:
        """Return what a row of the journey shows: weights alive (in all, and per tensor), units alive, and sparsity."""
        row = {"alive": self.masks.alive, "sparsity": self.masks.sparsity, "counts": self.masks.counts}
        return row | {"units": self.units.alive}

    @property
    def here(self) -> dict[str, Any]:
        """The state after the last step, done or replayed; recipes must ask this, for `masks` may be further on."""
        return self.journal[self._done - 1] if self._done else self.state()

    def save(self, **partial: Any) -> None:
        """Write a checkpoint; `partial` says where within a step it was taken."""
        self._saved_at = time.monotonic()
        if self.folder is None or ranks()[0] != 0:
            return
        tensors = {f"model:{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"mask:{n}": m for n, m in self.masks.items()}
        tensors |= {f"slot:{n}": t for n, t in self.slots.items()}
        params = [p for group in self.optimizer.param_groups for p in group["params"]] if self.optimizer else []
        numbers: dict[str, float] = {}
        for i, p in enumerate(params):
            for key, value in (self.optimizer.state.get(p, {}) if self.optimizer else {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer:{i}:{key}"] = value
                elif value is not None:
                    numbers[f"{i}:{key}"] = value
        facts = {
            "journal": self.journal,
            "trained": self.trained,
            "searched": self.searched,
            "partial": partial and {"do": self._doing} | partial,
        }
        facts |= {"optimizer": numbers, "points": self._files}
        store.save_tensors(self.folder.path / "checkpoint.safetensors", tensors, facts)
        for file in self.folder.path.glob("point-*.safetensors"):
            if file.name not in self._files.values():
                file.unlink()
        if not partial:
            self.folder.trace(self.journal)

    def save_now_and_then(self, **partial: Any) -> None:
        """Write a checkpoint if the last one is `save_every` seconds old."""
        if self.folder is not None and time.monotonic() - self._saved_at >= self.save_every:
            self.save(**partial)

    def resume(self) -> bool:
        """Load the folder's checkpoint, if there is one; returns whether there was.

        Raises:
            CheckpointError: a checkpoint that is damaged or of another network.
        """
        self._done = 0
        path = None if self.folder is None else self.folder.path / "checkpoint.safetensors"
        kept = store.load_tensors(path) if path is not None and path.exists() else None
        if kept is not None:
            self._take_up(*kept)
        if ranks()[1] > 1:  # nobody goes on, and writes, before all have read
            dist.barrier()
        return kept is not None

    def _take_up(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        assert self.folder is not None

        def part(kind: str) -> dict[str, Tensor]:
            return {n.removeprefix(f"{kind}:"): t for n, t in tensors.items() if n.startswith(f"{kind}:")}

        state, masks = part("model"), part("mask")
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in self.model.state_dict().items()}:
            raise CheckpointError(f"the checkpoint in {self.folder.path} belongs to another network")
        self._files = facts["points"]
        loaded = {p: store.load_tensors(self.folder.path / file)[0] for p, file in self._files.items()}
        points = {p: {n: t.to(self.device) for n, t in point.items()} for p, point in loaded.items()}
        self.model.load_state_dict(state)
        self.masks = Masks({n: masks[n].to(self.device) for n in self.masks})
        self.slots, self.points = {n: t.to(self.device) for n, t in part("slot").items()}, points
        self.journal, self.trained, self.searched = facts["journal"], facts["trained"], facts["searched"]
        self.partial = facts["partial"]
        if self.partial:
            self.partial["optimizer"] = part("optimizer"), facts["optimizer"]
        if ranks()[0] == 0:
            self.folder.trace(self.journal)  # the kill may have come before the last line
        for record in self.journal:
            self.report("step", record | {"resumed": True})


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Give a fresh optimizer the state that `Run.save` kept."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for label, value in (*tensors.items(), *numbers.items()):
        i, key = label.split(":")
        p = params[int(i)]
        moved = value.to(p.device) if isinstance(value, Tensor) and value.shape == p.shape else value
        optimizer.state[p][key] = moved
