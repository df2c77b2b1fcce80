"""Train: optimizer steps under the masks. What moves the masks, what is trained and what is made small are methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn, optim

from .errors import ResproutError, check_finite
from .hold import hold
from .kinds import Objective, Rule, Schedule, Step, Tune
from .part import Part
from .probe import first_tensor, take, to_device
from .run import Run, load_optimizer, mix, ranks
from .tuned import Tuned


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or AdamW: the recipe of an optimizer, without its state.

    `decay` holds for conv and linear weights; biases, norms and scores (`Part.apart`) have none. Scores learn `times` as fast.
    """

    kind: str = "sgd"
    momentum: float = 0.9
    decay: float = 5e-4
    nesterov: bool = True
    times: float = 1.0

    def build(self, model: nn.Module, lr: float) -> optim.Optimizer:
        """Return the optimizer of `model`'s trainable parameters."""
        apart = model.apart if isinstance(model, Part) else []
        own = {id(p) for p in apart}
        params = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in params if p.dim() > 1], "weight_decay": self.decay, "times": 1.0},
            {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0, "times": 1.0},
            {"params": apart, "weight_decay": 0.0, "times": self.times},
        ]
        groups = [g for g in groups if g["params"]]
        if self.kind == "sgd":
            return optim.SGD(groups, lr, self.momentum, nesterov=self.nesterov and self.momentum > 0)
        if self.kind == "adamw":
            return optim.AdamW(groups, lr, (self.momentum, 0.999))
        raise ResproutError(f"optimizer must be 'sgd' or 'adamw', got {self.kind!r}")


@dataclass(frozen=True)
class Train(Step):
    """Train for `steps` optimizer steps under the masks, with a rule that may move them.

    The learning rate is `lr` at the progress that `span` covers: a path in several pieces can share one schedule.
    `looks` times along the way, evenly, the network is evaluated on the validation split (the record's "curve"). With
    `best` the state with the best of these looks (and the last) is what remains; it needs masks that stand still.

    Left out, `objective` is the task's own loss, and `tune` all of the network; a part of it is trained under masks that stand
    still, and adapters become part of the weights in the end (`tuned.py`).
    """

    steps: int
    lr: Schedule
    optimizer: Optimizer = field(default_factory=Optimizer)
    rule: Rule = Rule()  # noqa: RUF009
    span: tuple[float, float] = (0.0, 1.0)
    looks: int = 0
    best: bool = False
    objective: Objective | None = None
    tune: Tune | None = None

    def __call__(self, run: Run) -> dict[str, Any]:
        """Train.

        Raises:
            ResproutError: a loss that is not finite, or that cannot take the batch.
        """
        if self.steps < 1:
            raise ResproutError(f"Train needs at least one step, got steps={self.steps}")
        if self.tune is not None and type(self.rule) is not Rule:
            raise ResproutError(f"{self.rule!r} moves masks, and what {self.tune!r} leaves as it is must stand still")
        with self.under_way(run, lambda: None if self.tune is None else Tuned(run, self.tune)) as (facts, _):
            pass
        if self.best:
            run.restore("best")
        return facts

    @contextmanager
    def under_way(self, run: Run, make: Callable[[], Part | None]) -> Iterator[tuple[dict[str, Any], Part | None]]:
        """Train what `make` returns (None: the network itself); within, its slots are still there.

        Yields:
            The facts, and the part that was trained.
        """
        part, guard, facts = None, None, {}
        try:
            part = make()
            optimizer = run.optimizer = self.optimizer.build(part or run.model, self.lr(self.span[0]))
            held = any(w.requires_grad for w in run.weights().values())
            guard = hold(run.model, run.masks, optimizer if held else None)
            facts = self._train(run, optimizer, part)
            facts |= {} if part is None else {"tuned": part.size}
            yield facts, part
        finally:
            if part is not None:
                part.finish(done=bool(facts))
            if guard is not None:
                guard.release()
            run.optimizer, run.live, run.slots = None, None, {}

    def _train(self, run: Run, optimizer: optim.Optimizer, part: Part | None) -> dict[str, Any]:
        start, curve, loss, top, resumed = 0, [], 0.0, -1e300, run.partial
        if resumed:
            start, curve, loss, top = resumed["step"], list(resumed["curve"]), resumed["loss"], resumed["top"]
            load_optimizer(optimizer, *resumed["optimizer"])
        else:
            self.rule.begin(run, self.steps)
        bare = part or run.model
        model = nn.parallel.DistributedDataParallel(bare) if ranks()[1] > 1 else bare
        batches = _stream(run)
        for step in range(start, self.steps):
            lr = self.lr(self.span[0] + (self.span[1] - self.span[0]) * step / self.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["times"]
            if part is not None:
                part.t = step / self.steps
            value = self._step(run, model, part, optimizer, next(batches), step)
            loss = value if step == 0 else 0.98 * loss + 0.02 * value
            run.report("train", {"step": step + 1, "steps": self.steps, "loss": loss, "lr": lr})
            looks = max(1, self.looks)
            if (step + 1) * looks // self.steps > step * looks // self.steps:
                with nullcontext() if part is None else part.merged():
                    curve.append([run.trained, run.masks.sparsity, run.evaluate()])
                    run.report("look", run.state() | {"trained": run.trained, "validation": curve[-1][2]})
                    if self.best and curve[-1][2] > top:
                        top = curve[-1][2]
                        run.mark("best")  # a resumed run that finds a later "best" here comes to the same one again
            run.save_now_and_then(step=step + 1, curve=curve, loss=loss, top=top)
        self.rule.end(run, self.steps)
        return {"loss": round(loss, 6), "validation": top if self.best else curve[-1][2], "curve": curve}

    def _step(
        self, run: Run, model: nn.Module, part: Part | None, optimizer: optim.Optimizer, batch: Any, step: int
    ) -> float:
        torch.manual_seed(mix(run.seed, "step", run.trained))
        model.train()
        batch = _prepare(batch, run)
        inputs = first_tensor(batch)
        run.rows = (len(inputs) if inputs.dim() else 1) * ranks()[1]
        with run.autocast():
            loss = take(lambda batch: self._value(run, model, batch), batch) + (0.0 if part is None else part.penalty())
        value = check_finite(float(loss.detach()), f"the training loss at step {run.trained}")
        loss.backward()
        run.live = gradients(run) if self.tune is None else None
        self.rule.after_backward(run, step, self.steps)
        run.live = None
        optimizer.step()
        run.trained += 1
        self.rule.after_step(run, step, self.steps)
        optimizer.zero_grad(set_to_none=True)
        return value

    def _value(self, run: Run, model: nn.Module, batch: Any) -> torch.Tensor:
        return run.task.loss(model, batch) if self.objective is None else self.objective(run, model, batch)


def gradients(run: Run) -> dict[str, torch.Tensor]:
    """Return the gradients that the backward pass has just left, dead weights included."""
    return {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in run.weights().items()}


def _stream(run: Run) -> Iterator[Any]:
    """Training batches without end, from where the run is: epoch and place follow from the steps trained."""
    per_epoch = run.task.steps_per_epoch
    while True:
        epoch, start = divmod(run.trained, per_epoch)
        empty = True
        for batch in run.task.batches("train", seed=mix(run.seed, "order"), epoch=epoch, start=start, shard=ranks()):
            empty = False
            yield batch
        if empty:
            raise ResproutError("the train split yields no batch: it is empty, or smaller than it says")


def _prepare(batch: Any, run: Run) -> Any:
    batch = to_device(batch, run.device)
    if run.channels_last and isinstance(batch, tuple) and isinstance(batch[0], torch.Tensor) and batch[0].dim() == 4:
        return (batch[0].contiguous(memory_format=torch.channels_last), *batch[1:])
    return batch
