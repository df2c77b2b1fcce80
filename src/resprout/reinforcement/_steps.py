"""The steps of an agent: play and learn from what was played, under a rule that may move the masks; and look at the agent.

Mnih et al.: "Human-level control through deep reinforcement learning", Nature 2015 (deep Q-learning: a memory of what happened,
and targets by an older network).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, check_finite
from ..core.hold import hold
from ..core.kinds import Rule, Schedule, Step
from ..core.modes import evaluating
from ..core.outputs import outputs
from ..core.played import Played
from ..core.run import Run, load_optimizer, mix, ranks
from ..core.train import Optimizer, gradients
from ..methods.schedule.linear import Linear
from .diagnostics import dormant, srank

TARGET = "target:"  # begins the slots of the older network


@dataclass(frozen=True)
class Play(Step):
    """`steps` optimizer steps of deep Q-learning; before each, all `players` make a move.

    Moves are by chance with the probability `explore` (of the progress), else the best. What happened is kept in a memory of
    `memory` moves, from which batches of `batch` are drawn once `warm` are there; targets are by the network as it was up to
    `copy` steps ago, its dead weights dead. Memory, games and that network are in the run's slots: killed within, it goes on.
    Only what learns is in training mode.
    """

    steps: int
    lr: Schedule
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("adamw", decay=0.0))
    rule: Rule = Rule()  # noqa: RUF009
    explore: Schedule = Linear(1.0, 0.05)  # noqa: RUF009
    wean: float = 0.3  # the part of the steps in which `explore` comes to its end
    players: int = 4
    memory: int = 20_000
    batch: int = 64
    warm: int = 1000
    copy: int = 200
    gamma: float = 0.99
    looks: int = 10

    def __post_init__(self) -> None:
        if min(self.steps, self.players, self.batch, self.warm, self.copy) < 1 or not 0 <= self.gamma <= 1:
            raise ResproutError(f"steps, players, batch, warm and copy must be 1 or more, gamma in [0, 1]; got {self}")

    def __call__(self, run: Run) -> dict[str, Any]:
        """Play and learn.

        Raises:
            ResproutError: a task without a world, several processes, or a loss that is not finite.
        """
        task = run.task
        if not isinstance(task, Played):
            raise ResproutError(f"an agent plays in a world (core.played), and {task!r} is none")
        if ranks()[1] > 1:
            raise ResproutError("an agent plays in one process")
        optimizer = run.optimizer = self.optimizer.build(run.model, self.lr(0.0))
        guard = hold(run.model, run.masks, optimizer)
        start, curve, loss, resumed = 0, [], 0.0, run.partial
        try:
            if resumed:
                start, curve, loss = resumed["step"], list(resumed["curve"]), resumed["loss"]
                load_optimizer(optimizer, *resumed["optimizer"])
            else:
                self._open(run, task)
                self.rule.begin(run, self.steps)
            for step in range(start, self.steps):
                lr = self.lr(step / self.steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                value = self._step(run, task, optimizer, step)
                loss = value if step == 0 else 0.98 * loss + 0.02 * value
                run.report("train", {"step": step + 1, "steps": self.steps, "loss": loss, "lr": lr})
                if (step + 1) * self.looks // self.steps > step * self.looks // self.steps:
                    curve.append([run.trained, run.masks.sparsity, run.evaluate()])
                    run.report("look", run.state() | {"trained": run.trained, "validation": curve[-1][2]})
                run.save_now_and_then(step=step + 1, curve=curve, loss=loss)
            self.rule.end(run, self.steps)
        finally:
            guard.release()
            run.optimizer, run.live, run.slots = None, None, {}
        return {"loss": round(loss, 6), "validation": curve[-1][2] if curve else run.evaluate(), "curve": curve}

    def _open(self, run: Run, task: Played) -> None:
        """Begin the games, and fill the memory by chance."""
        g = run.generator("games")
        state = task.begin(self.players, g)
        width, kept = task.seen(state).shape[1:], max(self.memory, self.warm + self.players)
        shapes = {"seen": (kept, *width), "next": (kept, *width), "reward": (kept,)}
        run.slots |= {n: torch.zeros(s, device=run.device) for n, s in shapes.items()}
        run.slots |= {"action": torch.zeros(kept, dtype=torch.int64, device=run.device)}
        run.slots |= {"ended": torch.zeros(kept, dtype=torch.bool, device=run.device)}
        run.slots |= {"count": torch.zeros((), dtype=torch.int64), "state": state.to(run.device)}
        while int(run.slots["count"]) < self.warm:
            self._move(run, task, 1.0, g)
        self._copy(run)

    def _step(self, run: Run, task: Played, optimizer: torch.optim.Optimizer, step: int) -> float:
        torch.manual_seed(mix(run.seed, "step", run.trained))  # of what the network draws
        g = run.generator("play")
        t = step / self.steps
        self._move(run, task, self.explore(t / max(self.wean, 1e-9)), g)
        s = run.slots
        rows = torch.randint(min(int(s["count"]), len(s["reward"])), (self.batch,), generator=g).to(run.device)
        with torch.no_grad(), run.autocast(), evaluating(run.model):
            older = {n.removeprefix(TARGET): p for n, p in s.items() if n.startswith(TARGET)}
            best = torch.func.functional_call(run.model, older, (s["next"][rows],)).float().amax(1)
            worth = s["reward"][rows] + self.gamma * best * ~s["ended"][rows]
        run.model.train()
        run.rows = self.batch
        with run.autocast():
            loss = task.loss(run.model, (s["seen"][rows], s["action"][rows], worth))
        value = check_finite(float(loss.detach()), f"the training loss at step {run.trained}")
        loss.backward()
        run.live = gradients(run)
        self.rule.after_backward(run, step, self.steps)
        run.live = None
        optimizer.step()
        run.trained += 1
        self.rule.after_step(run, step, self.steps)
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % self.copy == 0:
            self._copy(run)
        return value

    @torch.no_grad()
    def _move(self, run: Run, task: Played, chance: float, g: torch.Generator) -> None:
        """All players make a move, which the memory keeps; games that are over begin anew."""
        s, count = run.slots, int(run.slots["count"])
        seen = task.seen(s["state"])
        with evaluating(run.model):
            worth = run.model(seen)
        free = torch.randint(worth.shape[1], (self.players,), generator=g).to(run.device)
        action = torch.where(torch.rand(self.players, generator=g).to(run.device) < chance, free, worth.argmax(1))
        answer = task.act(s["state"], action)
        at = (torch.arange(count, count + self.players) % len(s["reward"])).to(run.device)
        s["seen"][at], s["next"][at], s["reward"][at] = seen, task.seen(answer.state), answer.reward
        s["action"][at], s["ended"][at] = action, answer.ended
        fresh = task.begin(self.players, g).to(run.device)
        s["state"] = torch.where(answer.over[:, None], fresh, answer.state)
        s["count"] += self.players

    def _copy(self, run: Run) -> None:
        run.slots |= {f"{TARGET}{n}": t.detach().clone() for n, t in run.model.state_dict().items()}


@dataclass(frozen=True)
class Diagnose(Step):
    """Look at an agent on its own moves: rank of features, units that sleep, variance of worths, length of weights."""

    moves: int = 200
    games: int = 10
    tau: float = 0.1

    def __call__(self, run: Run) -> dict[str, Any]:
        """Look.

        Raises:
            ResproutError: a task without a world, or a network without a linear layer.
        """
        if not isinstance(run.task, Played):
            raise ResproutError(f"an agent plays in a world (core.played), and {run.task!r} is none")
        linear = [n for n, m in run.model.named_modules() if isinstance(m, nn.Linear)]
        if not linear:
            raise ResproutError("the rank of features is that of what the last nn.Linear reads, and the agent has none")
        seen = self._played(run, run.task)
        active = [n for n, m in run.model.named_modules() if isinstance(m, nn.ReLU)]
        found: list[Tensor] = []
        hook = run.model.get_submodule(linear[-1]).register_forward_pre_hook(lambda m, args: found.append(args[0]))
        try:
            with torch.no_grad(), evaluating(run.model), outputs(run.model, active) as said:
                worth = run.model(seen)
        finally:
            hook.remove()
        norm = sum(float(p.detach().square().sum()) for p in run.model.parameters()) ** 0.5
        facts = {"srank": srank(found[0]), "dormant": dormant(said, self.tau), "norm": norm}
        return facts | {"spread": float(worth.var()), "validation": run.evaluate()}

    @torch.no_grad()
    def _played(self, run: Run, task: Played) -> Tensor:
        g = torch.Generator().manual_seed(mix(run.seed, "diagnose"))
        state, told = task.begin(self.games, g).to(run.device), []
        for _ in range(self.moves):
            told.append(task.seen(state))
            with evaluating(run.model):
                answer = task.act(state, run.model(told[-1]).argmax(1))
            fresh = task.begin(self.games, g).to(run.device)
            state = torch.where(answer.over[:, None], fresh, answer.state)
        return torch.cat(told)
