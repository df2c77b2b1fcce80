"""The steps of federated learning: a round of averaging, the choice among candidates, a block's exchange; each says what it sent.

What is sent is counted in numbers: "up" from all clients together and "down" to them. A network under masks is its weights
alive, all its other tensors, and (when masks have changed) one bit for each prunable weight, 32 to a number. A number's place is
a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..core.budget import Budget
from ..core.errors import ResproutError, nearest
from ..core.kinds import Allocation, Score, Step
from ..core.masks import Masks
from ..core.norms import norms, refresh
from ..core.probe import to_device
from ..core.run import Run, mix
from ..core.select import top
from ..core.steps import chooser
from ..core.task import Task
from ..core.train import Optimizer, Train
from ..methods.allocate.perturbed import Perturbed
from ..methods.schedule.constant import Constant
from .clients import Federation

Norms = Literal["shared", "own", "server"]


def size(run: Run, masks: bool = False) -> int:
    """Return the numbers that it takes to send the run's network."""
    whole = sum(t.numel() for t in run.model.state_dict().values() if t.is_floating_point())
    return whole - run.masks.total + run.masks.alive + (-(-run.masks.total // 32) if masks else 0)


def sent(journal: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the numbers sent "up" and "down" in all the steps of a journal."""
    journal = list(journal)
    return {way: sum(record.get(way, 0) for record in journal) for way in ("up", "down")}


@torch.no_grad()
def mean(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the mean of tensors by name, weighted by `shares`; of what is counted in integers the first."""
    total, found = sum(shares), {}
    for name, first in states[0].items():
        if first.is_floating_point():
            parts = (s[name].double() * (w / total) for s, w in zip(states, shares, strict=True))
            found[name] = torch.stack(list(parts)).sum(0).to(first.dtype)
        else:
            found[name] = first
    return found


@dataclass(frozen=True)
class Round(Step):
    """Some clients train the network as it stands, each for `epochs` passes over its samples; their mean is the new one."""

    federation: Federation
    epochs: int
    lr: float
    optimizer: Optimizer

    def __call__(self, run: Run) -> dict[str, Any]:
        """Train and average."""
        who, states, shares, losses, steps = self.federation.drawn(run.generator("round")), [], [], [], 0
        parts = self.federation.split(run.task)
        for i in who:
            twin = run.fork()
            twin.task = self.federation.client(run.task, i, parts)
            twin.seed, twin.trained = mix(run.seed, "client", i, run.trained), 0
            steps = max(steps, self.epochs * twin.task.steps_per_epoch)
            facts = Train(self.epochs * twin.task.steps_per_epoch, Constant(self.lr), self.optimizer)(twin)
            states.append({n: t.detach() for n, t in twin.model.state_dict().items()})
            shares.append(len(parts[i]))
            losses.append(facts["loss"])
        run.model.load_state_dict(mean(states, shares))
        run.set_masks(run.masks)
        run.trained += steps
        each = size(run) * len(who)
        return {"clients": who, "loss": sum(losses) / len(who), "up": each, "down": each}


@dataclass(frozen=True)
class Choose(Step):
    """Of several candidates, all cut to `budget`, the one with the least loss on the clients' development parts stays.

    With "shared" norms each candidate's batch norms get the clients' mean and variance, averaged by how much data they have,
    before it is judged (and keeps them if it stays); "own" judges with each client's own, and "server" with those it came with.
    """

    federation: Federation
    budget: Budget
    candidates: int
    spread: float
    score: Score
    allocate: Allocation
    norms: Norms = "shared"

    def __post_init__(self) -> None:
        if self.norms not in get_args(Norms):
            raise nearest(self.norms, get_args(Norms), "norms")

    def __call__(self, run: Run) -> dict[str, Any]:
        """Ask the clients, and put the best masks in force.

        Raises:
            BudgetError: the budget cannot be met.
        """
        parts = self.federation.split(run.task)
        clients = [self.federation.client(run.task, i, parts) for i in range(self.federation.count)]
        pool, losses, found = self.pool(run), [], []
        for masks in pool:
            twin = run.fork()
            twin.set_masks(masks)
            losses.append(self._judge(twin, clients, [len(p) for p in parts]))
            found.append({n: t.detach().clone() for n, t in twin.model.state_dict().items()})
        best = min(range(len(pool)), key=losses.__getitem__)
        if self.norms == "shared":
            run.model.load_state_dict(found[best])
        run.set_masks(pool[best])
        numbers = sum(2 * m.num_features for m in norms(run.model).values())
        asked = len(pool) * len(clients)
        up = asked * (1 + (numbers if self.norms == "shared" else 0))
        down = asked * (size(run, masks=True) + (numbers if self.norms == "shared" else 0))
        return {"losses": losses, "chosen": best, "up": up, "down": down}

    def pool(self, run: Run) -> list[Masks]:
        """Return the candidates' masks: the first as `allocate` says, the others with densities beside it."""
        prices, found = self.budget.prices(run.model, run.masks), []
        for i in range(self.candidates):
            allocate = Perturbed(self.allocate, self.spread, mix(run.seed, "candidate", i)) if i else self.allocate
            choose = chooser(run.probe(), self.score, allocate, 1, prices, run.granularity)
            least = sum(min(1, size) for size in run.units.counts.values())
            found.append(self.budget.keep(run.model, choose, least, run.units.alive))
        return found

    @torch.no_grad()
    def _judge(self, twin: Run, clients: Sequence[Task], shares: Sequence[int]) -> float:
        model = twin.model
        own: list[dict[str, Tensor]] = []
        if self.norms != "server":
            own = [statistics(model, client) for client in clients]
        if self.norms == "shared" and own and own[0]:
            model.load_state_dict(mean(own, shares), strict=False)
        losses = []
        for i, client in enumerate(clients):
            if self.norms == "own":
                model.load_state_dict(own[i], strict=False)
            model.eval()
            batches = [client.loss(model, b) for b in _moved(client, twin)]
            losses.append(float(torch.stack(batches).mean()))
        return sum(loss * share for loss, share in zip(losses, shares, strict=True)) / sum(shares)


@torch.no_grad()
def statistics(model: nn.Module, client: Task) -> dict[str, Tensor]:
    """Return what the batch norms of `model` measure on a client's development part, as its buffers; it stays as it was."""
    kept = {n: t.clone() for n, t in model.state_dict().items()}
    try:
        refresh(model, client, split="validation")
        own = [(n, b, t) for n, m in norms(model).items() for b, t in m.named_buffers() if "running" in b]
        return {f"{n}.{b}": t.clone() for n, b, t in own}
    finally:
        model.load_state_dict(kept)


@dataclass(frozen=True)
class Exchange(Step):
    """In each tensor of a block, `fraction` of the living die and as many of the dead come to life, by what clients tell.

    Each client sends, of the gradients of dead weights on one batch, only as many as will come to life, the largest; those with
    the largest mean come, and the smallest weights go. Densities stay as they are, tensor by tensor. Unlike in RigL, what goes
    cannot come back at once.
    """

    federation: Federation
    block: tuple[str, ...]
    fraction: float

    def __call__(self, run: Run) -> dict[str, Any]:
        """Ask some clients, and exchange.

        Raises:
            ResproutError: names that are not prunable weights.
        """
        if odd := set(self.block) - set(run.masks):
            raise ResproutError(f"{min(odd)!r} of the block is no prunable weight")
        old = {n: run.masks[n] for n in self.block}
        moved = {n: min(round(self.fraction * int(m.sum())), m.numel() - int(m.sum())) for n, m in old.items()}
        who, parts = self.federation.drawn(run.generator("exchange")), self.federation.split(run.task)
        told, each = {n: torch.zeros(m.shape) for n, m in old.items()}, 0
        for i in who:
            client = self.federation.client(run.task, i, parts)
            batch = next(iter(client.batches("train", seed=mix(run.seed, "exchange", i), epoch=run.trained)))
            gradients = run.probe_with([batch], client.loss).gradients()
            share = len(parts[i]) / sum(len(parts[j]) for j in who)
            for n, told_of in told.items():
                size = gradients[n].abs().cpu()
                largest = top({n: size}, moved[n], Masks({n: ~old[n].cpu()}))[n]
                told_of += share * gradients[n].cpu() * largest
        new = {}
        for n, mask in old.items():
            weight = run.weights()[n].detach().abs()
            stay = top({n: weight}, int(mask.sum()) - moved[n], Masks({n: mask}))[n]
            born = top({n: told[n].abs().to(weight)}, moved[n], Masks({n: ~mask}))[n]
            new[n] = stay | born
        each = sum(moved.values())
        facts = run.set_masks(Masks(dict(run.masks) | new))
        down = len(who) * -(-sum(m.numel() for m in old.values()) // 32)
        return facts | {"moved": each, "up": 2 * each * len(who), "down": down}


def _moved(client: Task, run: Run) -> Iterable[Any]:
    return (to_device(batch, run.device) for batch in client.batches("validation"))
