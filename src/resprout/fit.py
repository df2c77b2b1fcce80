"""The main job: from a network to the best one that keeps a budget, with everything kept, resumable and reported."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import catalog
from .core import granularity as granularities
from .core import store
from .core.budget import All, Budget
from .core.errors import BudgetError, CheckpointError, ResproutError, TraceError, nearest
from .core.granularity import Granularity
from .core.hold import unwrap
from .core.kinds import Recipe
from .core.masks import Masks, prunable
from .core.probe import first_tensor, to_device
from .core.roles import selectable
from .core.run import Report, Run, ranks
from .core.steps import Mark, Search
from .core.task import Task, suited
from .core.train import Optimizer, Train
from .deploy import encoding
from .deploy.devices import Device
from .deploy.devices import device as profile
from .deploy.file import load, save
from .deploy.huggingface import has_tokenizer, is_pretrained, save_pretrained
from .deploy.smaller import counted, held_by, smaller
from .deploy.target import Target
from .deploy.timing import Table
from .deploy.trace import Traced, lower
from .evaluate.audit._audit import Audit, Auditor
from .graph.structure import Structure
from .graph.trace import trace
from .methods.recipe.one_way import OneWay
from .methods.schedule.cosine import Cosine
from .methods.search.one_way_curve import OneWayCurve


@dataclasses.dataclass(frozen=True)
class Arrival:
    """One network: what was asked, what it costs, and how good it is. Accuracies are fractions in [0, 1].

    `achieved` says in words what it takes of each limit of the budget; of several limits, `cost` is the largest share.
    `test` is measured on the network read back from `file`, once; `steps` are optimizer steps on the path up to here.
    """

    recipe: str
    budget: str
    cost: float
    sparsity: float
    alive: int
    bytes: int
    validation: float
    test: float
    steps: int
    file: str | None = None
    pretrained: str | None = None  # of a network of transformers: the folder that `from_pretrained` takes
    achieved: dict[str, str] = dataclasses.field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # name of an audit -> what it found


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit` found; kept as `result.json` in the run folder."""

    dense: Arrival
    frontier: tuple[Arrival, ...]
    control: tuple[Arrival, ...]
    curve: list[list[float]]
    cliff: float | None
    stump: float
    path: list[list[float]]
    searched: int
    selected_on: str
    folder: str | None
    config: dict[str, Any]
    metric: str = "accuracy"
    notes: tuple[str, ...] = ()
    journal: list[dict[str, Any]] = dataclasses.field(repr=False, default_factory=list)

    @property
    def accuracy(self) -> float:
        """Test accuracy (or what `metric` names) at the largest budget."""
        return self.frontier[-1].test

    @property
    def bytes(self) -> int:
        """Size of the file at the largest budget."""
        return self.frontier[-1].bytes

    def report(self) -> dict[str, str]:
        """Draw accuracy over sparsity into the run folder; returns {"png": path, "svg": path}."""
        from .report.picture import draw

        if self.folder is None:
            raise ResproutError("this result has no folder to draw into: call fit with out='runs'")
        return draw(Path(self.folder))

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """Read the result of a finished run.

        Raises:
            CheckpointError: the run has not finished, or the file is damaged.
        """
        path = Path(folder) / "result.json"
        try:
            facts = json.loads(path.read_text())
            known = {k: facts[k] for k in (f.name for f in dataclasses.fields(cls)) if k in facts}
            known["dense"] = Arrival(**facts["dense"])
            known |= {k: tuple(Arrival(**a) for a in facts[k]) for k in ("frontier", "control")}
            known["notes"] = tuple(facts.get("notes", ()))
            return cls(**known)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} holds no finished result ({error!r}); run the same fit again") from error


def fit(
    model: nn.Module,
    task: Task,
    budget: str | float | Budget | Sequence[str | float | Budget] | None = None,
    *,
    device: str | Device | None = None,
    table: str | Path | None = None,
    values: str = "fp16",
    recipe: str | Recipe | None = None,
    granularity: str | Granularity = "weight",
    epochs: float | None = None,
    dense_epochs: float = 0,
    dense_lr: float | None = None,
    control: bool = False,
    curve: bool = True,
    seed: int = 0,
    out: str | Path | None = "runs",
    precision: str = "auto",
    channels_last: bool = True,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    audit: str | Sequence[str | Audit] = (),
    report: Report | None = None,
) -> Result:
    """Fit `model` to a budget, or through a frontier of budgets: dense training, cliff, stump, regrowth, final test.

    Started again with the same arguments it resumes, in the middle of a step if it was killed there.

    Args:
        model: the network; afterwards it is the one of the largest budget, as read back from its file.
        task: its data, loss and metrics.
        budget: "64KiB", "12k nonzero", "5M macs", "256KiB flash", "96KiB ram", "1.5ms", a sparsity such as 0.98; several
            limits at once ("256KiB flash, 4ms"); or several budgets: a list, or "16KiB; 32KiB" (docs/budgets.md).
        device: a device by name: its flash and RAM are limits besides, and alone are the budget where none is given.
        table: file of times that `resprout bench --table` measured on the device, for a budget in time on another machine.
        values: the type of the weights in the file: "fp32", "fp16", "int8" or "int4".
        recipe: the path, by name or object; default "bidirectional_gradual", of channels, heads and layers
            "bidirectional_structured".
        granularity: what is cut and regrown: "weight", "block:4x1", or "channel", "head", "layer", which really leave: then
            the files hold the smaller network.
        epochs: of the recipe; default its own.
        dense_epochs: train the dense network first (0: it is trained already).
        dense_lr: peak learning rate of that; default what suits the task, of images 0.1.
        control: also walk one way ("one_way", gradual) from the same dense network, with as many optimizer steps.
        curve: first measure the one-way curve and find its cliff (a few short tries on forks, counted as `searched`).
        seed: of everything random.
        out: where run folders are made; None keeps nothing and cannot resume.
        precision: "fp32", "bf16" (autocast) or "auto": bf16 where the processor has it and the network is large.
        channels_last: give images to the network in that memory format.
        targets, ignore: which parameters may be pruned (see `masks.prunable`).
        audit: what else to ask of the networks in the end, on test data: "robustness", "privacy", "subgroups", "calibration";
            of a finished run it is asked without training anything.
        report: called with (event, facts): "train" at each step, "step" after each verb, "search" at each try.

    Raises:
        ResproutError: bad arguments, with the remedy.
        BudgetError: a budget that cannot be met, and how near one gets.
        TraceError: a budget that counts operations, and a network whose operations are not known.
        CheckpointError: a damaged run folder, or one that another process uses.
    """
    if values not in encoding.VALUES:
        raise nearest(values, encoding.VALUES, "values")
    where = profile(device) if isinstance(device, str) else device
    budgets = _budgets(budget, where)
    units = granularities.parse(granularity)
    structured = isinstance(units, granularities.Units)
    default = "bidirectional_structured" if structured else "bidirectional_gradual"
    chosen: Recipe = catalog.make("recipe", recipe or default)
    if epochs is not None:
        if not epochs > 0:
            raise ResproutError(f"epochs must be above 0, got {epochs:g}; dense_epochs=0 is for a trained network")
        chosen = dataclasses.replace(chosen, epochs=epochs)
    bare = unwrap(model)
    chosen, optimizer = suited(chosen, task, bare), task.suits(bare).get("optimizer", Optimizer())
    rate: float = dense_lr or task.suits(bare).get("lr", 0.1)
    auditor = Auditor(catalog.audits(audit), task, seed)
    wanted = prunable(bare, targets, ignore)  # units reach into layers that are not wanted themselves
    masks = Masks.dense(bare) if structured else Masks.dense(bare, targets, ignore)
    precision = resolved(precision, bare, masks.total)
    config = {
        "resprout": 1,
        "model": f"{type(bare).__name__}-{store.checksum(bare.state_dict())[:16]}",
        "prunable": hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16],
        "task": repr(task),
        "budgets": [str(b) for b in budgets],
        "dense": [dense_epochs, rate] if dense_epochs else [],
        "seed": seed,
        "precision": precision,
        "curve": curve,
    }
    config |= {k: v for k, v in (("values", values), ("device", where and where.name)) if v not in ("fp16", None)}
    config |= {} if units == granularities.Weight() else {"granularity": repr(units)}
    if out is not None and " at 0x" in config["task"]:
        raise ResproutError(
            f"the repr of a task names its run folder, and that of {type(task).__name__} changes at every start: "
            "make the task a dataclass, give it a __repr__ of its settings, or call fit with out=None"
        )
    traced, notes = _trace(bare, task, budgets)
    target = Target(traced, values, device=where, table=None if table is None else Table.read(table))
    aims = {b: dataclasses.replace(target, notes={"budget": str(b)}) for b in budgets}
    example = _example(bare, task)
    structure, groups, least = None, (), masks & ~masks
    if isinstance(units, granularities.Units):
        structure = trace(bare, example, layers=units.kind == "layer")
        groups = selectable(bare, structure.groups, wanted, masks)
        least = units.least(masks, groups)
    budgets = [b.on(t) if structure is None else counted(b, structure, example, t) for b, t in aims.items()]
    for wish in budgets:  # before hours are spent on it
        wish.check(bare, least)
    own = config | {"recipe": store.configuration(chosen), "control": control}
    folder = None if out is None else store.RunFolder(out, type(chosen).__name__.lower(), own)
    if folder is not None and (folder.path / "result.json").exists():
        result = Result.read(folder.path)
        if auditor.audits:
            result = _audited(result, bare, auditor, folder, structured)
        held_by(folder.path / Path(str(result.frontier[-1].file)).name, bare, structured)
        return result

    def start(network: nn.Module, place: store.RunFolder | None) -> Run:
        run = Run(
            network, task, masks, seed=seed, folder=place, precision=precision, channels_last=channels_last,
            granularity=units, groups=groups,
        )  # fmt: skip
        if report is not None:
            run.report = _with_bytes(run, report, target)
        run.resume()
        return run

    with folder.lock() if folder is not None and ranks()[0] == 0 else nullcontext():
        run = start(bare, folder)
        run.do(Mark("start"))
        if dense_epochs:
            steps = max(1, round(dense_epochs * task.steps_per_epoch))
            run.do(Train(steps, Cosine(rate, 0.0, warmup=0.1), optimizer, looks=10, best=True))
        dense_record = run.do(Mark("dense"))
        if curve:
            run.do(Search(OneWayCurve()))
        chosen(run, budgets)
        dense = _measure(run, "dense", dense_record, folder, target, auditor)
        controls: tuple[Arrival, ...] = ()
        if control:
            twin = copy.deepcopy(bare)
            twin.load_state_dict(run.tensors_at("dense"))
            one_way = OneWay(epochs=(run.trained - dense_record["trained"]) / task.steps_per_epoch)
            same = {k: getattr(chosen, k) for k in ("lr", "optimizer") if hasattr(chosen, k)}
            said = {k: v for k, v in same.items() if v != getattr(type(chosen), k, None)}
            one_way = dataclasses.replace(suited(one_way, task, bare), **said)
            beside = None if folder is None else store.RunFolder(folder.path, "control", {"recipe": repr(one_way)})
            other = start(twin, beside)
            other.do(Mark("dense"))
            one_way(other, budgets)
            controls = tuple(_measure(other, "one_way", r, beside, target, auditor, structure) for r in _arrived(other))
        frontier = tuple(_measure(run, _name(chosen), r, folder, target, auditor, structure) for r in _arrived(run))
        if folder is not None and ranks()[0] == 0 and is_pretrained(bare):
            frontier, more = _pretrained(frontier, bare, folder, structured)
            notes += more
        config |= {"recipe": store.configuration(chosen)}
        result = _result(run, dense, frontier, controls, folder, config, notes)
        if folder is not None and ranks()[0] == 0:
            _keep(result, folder)
    return result


def _keep(result: Result, folder: store.RunFolder) -> None:
    store.write(folder.path / "result.json", json.dumps(dataclasses.asdict(result), indent=1).encode())


def _pretrained(
    frontier: tuple[Arrival, ...], model: nn.Module, folder: store.RunFolder, structured: bool
) -> tuple[tuple[Arrival, ...], tuple[str, ...]]:
    """Write what each file holds as a Hugging Face folder beside it too; notes say what cannot be."""
    home, found, notes = getattr(model, "name_or_path", ""), [], []
    for a in frontier:
        small, place = held_by(Path(str(a.file)), model, structured), Path(str(a.file)).with_suffix("")
        try:
            save_pretrained(small, place, tokenizer=home if home and has_tokenizer(home) else None, overwrite=True)
            found.append(dataclasses.replace(a, pretrained=str(place)))
        except ResproutError as error:  # the file is there
            found.append(a)
            notes.append(f"no Hugging Face folder for {a.budget}: {error}")
    return tuple(found), tuple(notes)


def _audited(result: Result, model: nn.Module, auditor: Auditor, folder: store.RunFolder, structured: bool) -> Result:
    """Ask a finished run's networks, read from their files, what has not been asked of them yet."""

    def ask(a: Arrival, place: Path, dense: bool = False) -> Arrival:
        held_by(place / Path(str(a.file)).name, model, structured and not dense)
        return dataclasses.replace(a, audits=auditor(model, dense, known=a.audits))

    beside = (folder.path / Path(str(a.file)).parent.name for a in result.control)
    dense = ask(result.dense, folder.path, dense=True)
    control = tuple(ask(a, place) for a, place in zip(result.control, beside, strict=True))
    frontier = tuple(ask(a, folder.path) for a in result.frontier)
    result = dataclasses.replace(result, dense=dense, control=control, frontier=frontier)
    with folder.lock():
        _keep(result, folder)
    return result


def _budgets(budget: Any, device: Device | None) -> list[Budget]:
    """What is asked for, within the limits of a device.

    Raises:
        BudgetError: nothing is, or more than the device has.
    """
    has = Budget.parse(device.budget) if device is not None and device.budget else None
    if budget is None:
        if has is None:
            raise BudgetError("give a budget, such as '64KiB', or a device that has limits (resprout list devices)")
        return [has]
    limits = () if not isinstance(has, All) else has.parts
    return [_within(wish, limits) for wish in Budget.several(budget)]


def _within(wish: Budget, limits: Sequence[Budget]) -> Budget:
    """A budget and those of a device's limits that it does not narrow itself."""
    parts = wish.parts if isinstance(wish, All) else (wish,)
    own = {type(part): part for part in parts}
    for limit in limits:
        if type(limit) in own and own[type(limit)].limit > limit.limit:
            raise BudgetError(f"the budget {own[type(limit)]} is more than the device has: {limit}")
    more = tuple(limit for limit in limits if type(limit) not in own)
    return All((*parts, *more)) if more else wish


def _trace(model: nn.Module, task: Task, budgets: Sequence[Budget]) -> tuple[Traced | None, tuple[str, ...]]:
    """The network's operations, and a note where they are not known.

    Raises:
        TraceError: they are not, and a budget counts them.
    """
    batch = to_device(next(iter(task.batches("train"))), next(model.parameters()).device)
    try:
        return lower(model, batch), ()
    except TraceError as error:
        needs = next((b for b in budgets if b.graph), None)
        if needs is not None:
            raise TraceError(
                f"the budget {needs} counts the network's operations, and it cannot be traced: {error}"
            ) from error
        return None, (f"the files hold no program, only weights, for the network cannot be traced: {error}",)


def _with_bytes(run: Run, report: Report, target: Target) -> Report:
    """Add to what a row of the journey shows the bytes that the network would take as a file."""

    def tell(event: str, facts: dict[str, Any]) -> None:
        if "alive" in facts and facts["alive"] == run.masks.alive:
            facts = facts | {"bytes": encoding.size(run.model, run.masks, target.values, target.traced)}
        report(event, facts)

    return tell


def _name(recipe: Recipe) -> str:
    """The recipe's name on the command line."""
    return next(c.name for c in catalog.cards() if c.method is type(recipe))


def resolved(asked: str, model: nn.Module, weights: int) -> str:
    """Return what precision "auto" is: bfloat16 pays on networks that are not tiny, on processors that have it."""
    if asked != "auto":
        return asked
    device = next(model.parameters()).device.type
    able = (
        getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() if device == "cpu" else torch.cuda.is_bf16_supported()
    )
    return "bf16" if able and weights > 200_000 else "fp32"


def _arrived(run: Run) -> list[dict[str, Any]]:
    """The journal's arrivals, by weights alive."""
    return sorted((r for r in run.journal if r["step"] == "Arrive"), key=lambda r: r["alive"])


def _example(model: nn.Module, task: Task) -> Any:
    """One training input, to call the network with."""
    batch = first_tensor(next(iter(task.batches("train"))))[:1]
    return batch.to(next(model.parameters()).device)


def _measure(
    run: Run,
    recipe: str,
    record: dict[str, Any],
    folder: store.RunFolder | None,
    target: Target,
    auditor: Auditor,
    structure: Structure | None = None,
) -> Arrival:
    """Come back to the network of a record, write and read back its file, and test it: with audits, the only look at test data.

    With a structure the file holds the smaller network.
    """
    point = record["point"] if "point" in record else record["name"]
    values = target.values if "point" in record else "fp32"  # a dense network is tested as it is
    notes = {"budget": record["budget"]} if "budget" in record else None
    run.restore(point)
    run.precision = "fp32"  # devices compute in it; bf16 is for training
    size = encoding.size(run.model, run.masks, values, target.traced, notes)
    file = None if folder is None else folder.path / f"{point}.safetensors"
    with tempfile.TemporaryDirectory() as aside:
        path = file or Path(aside) / "network.safetensors"
        if ranks()[0] == 0 and structure is None:
            save(path, run.model, run.masks, values=values, example=target.traced, budget=record.get("budget"))
            load(path, run.model)
        elif ranks()[0] == 0 and structure is not None:
            small, seen = smaller(run.model, run.masks, structure, _example(run.model, run.task), target)
            size = save(path, small, values=values, example=seen.traced, budget=record.get("budget"))
            held_by(path, run.model, structured=True)
    test, began = run.evaluate("test"), time.monotonic()
    audits = auditor(run.model, "point" not in record) if auditor.audits and ranks()[0] == 0 else {}
    if audits:
        facts = {"step": "Audit", "of": point, "trained": record["trained"], "seconds": time.monotonic() - began}
        run.report("step", facts)
    return Arrival(
        recipe=recipe,
        budget=record.get("budget", "none"),
        cost=record.get("cost", 0.0),
        sparsity=run.masks.sparsity,
        alive=run.masks.alive,
        bytes=size,
        validation=record["validation"],
        test=test,
        steps=record["trained"],
        file=None if file is None else str(file),
        achieved=record.get("achieved", {}),
        audits=audits,
    )


def _result(
    run: Run,
    dense: Arrival,
    frontier: tuple[Arrival, ...],
    control: tuple[Arrival, ...],
    folder: store.RunFolder | None,
    config: dict[str, Any],
    notes: tuple[str, ...],
) -> Result:
    """Gather what the journal tells."""
    scan = next((r for r in run.journal if "curve" in r and r["step"] == "Search"), {"curve": [], "cliff": None})
    path, on_the_way = [], False
    for record in run.journal:
        if record["step"] == "Mark" and record["name"] == "dense":
            on_the_way = True
        if on_the_way and record["step"] == "Train":
            path += record["curve"]
        elif on_the_way and record["step"] in ("Mark", "Arrive"):
            path.append([record["trained"], record["sparsity"], record["validation"]])
    return Result(
        dense=dense,
        frontier=frontier,
        control=control,
        curve=[list(point) for point in scan["curve"]],
        cliff=scan["cliff"],
        stump=max(sparsity for _, sparsity, _ in path),
        path=path,
        searched=run.searched,
        selected_on=run.chooses_on,
        folder=None if folder is None else str(folder.path),
        config=config,
        metric=run.task.metric,
        notes=notes,
        journal=run.journal,
    )
