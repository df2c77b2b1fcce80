"""Policy gradient: a controller learns how many weights to bring back in which layer, from the accuracy after a short recovery.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675;
REINFORCE: Williams, Machine Learning 1992.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ...core.kinds import Fidelity, Fill, Recover, Score, Searcher
from ...core.run import Run, mix
from ...core.steps import Regrow
from ..allocate.table import Table
from ..fill.zero import Zero
from ..recover.finetune import Finetune
from ..score.saliency import Saliency
from ._controller import Controller


@dataclass(frozen=True)
class PolicyGradient(Searcher):
    """Findings: how many weights to "grow" per layer, their "reward" and "validation", and the "episodes" it took.

    `curve` is the one-way curve, (sparsity, accuracy) ascending, that the reward measures against; `levels` are the
    budgets it may choose from, in weights; `epochs` those of the mini fine-tune.
    """

    layers: tuple[str, ...]
    levels: tuple[int, ...]
    curve: tuple[tuple[float, float], ...]
    epochs: float = 40
    episodes: int = 300
    hidden: int = 64
    lr: float = 3e-4
    entropy: tuple[float, float] = (0.4, 0.04)
    patience: int = 45
    spread: float = 0.002
    score: Score = Saliency()  # noqa: RUF009
    fill: Fill = Zero()  # noqa: RUF009
    recover: Recover = Finetune()  # noqa: RUF009
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run) -> dict[str, Any]:
        """Learn; the best allocation seen wins."""
        generator = torch.Generator().manual_seed(mix(run.seed, "controller", run.trained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(run.seed, "controller's weights"))
            controller = Controller(len(self.levels), self.hidden)
        optimizer = torch.optim.Adam(controller.parameters(), self.lr)
        rooms = [run.masks.sizes[n] - run.masks.counts[n] for n in self.layers]
        levels = [min(level, sum(rooms)) for level in self.levels]
        known: dict[tuple[int, ...], tuple[float, float]] = {}
        rewards: list[float] = []
        best, stale, baseline = (-math.inf, 0.0, [0] * len(rooms)), 0, 0.0
        for episode in range(self.episodes):
            counts, log, entropy = controller.sample(levels, rooms, generator)
            if tuple(counts) not in known:
                known[tuple(counts)] = self._try(run, counts, max(levels))
            reward, accuracy = known[tuple(counts)]
            rewards.append(reward)
            best, stale = ((reward, accuracy, counts), 0) if reward > best[0] else (best, stale + 1)
            baseline = reward if episode == 0 else 0.9 * baseline + 0.1 * reward
            warm = min(1.0, episode / (0.4 * self.episodes))
            weight = self.entropy[0] + (self.entropy[1] - self.entropy[0]) * warm
            optimizer.zero_grad()
            (-max(-10.0, min(10.0, reward - baseline)) * log - weight * entropy).backward()
            torch.nn.utils.clip_grad_norm_(controller.parameters(), 1.0)
            optimizer.step()
            run.report("search", {"step": episode + 1, "steps": self.episodes, "reward": reward})
            if stale >= self.patience or (len(rewards) >= 20 and np.std(rewards[-20:]) < self.spread):
                break
        found = dict(zip(self.layers, best[2], strict=True))
        return {"grow": found, "reward": best[0], "validation": best[1], "episodes": len(rewards)}

    def _try(self, run: Run, counts: list[int], budget: int) -> tuple[float, float]:
        """Regrow a fork so, let it recover, and return (reward, accuracy)."""
        fork = run.fork()
        alive = {n: run.masks.counts[n] for n in run.masks}
        for name, count in zip(self.layers, counts, strict=True):
            alive[name] += count
        densities = {n: k / run.masks.sizes[n] for n, k in alive.items()}
        sparsity = 1 - sum(alive.values()) / run.masks.total
        fork.do(Regrow(sparsity, self.score, Table(densities), self.fill))
        for step in self.recover(max(1, round(self.epochs * run.task.steps_per_epoch))):
            fork.do(step)
        run.searched += fork.trained - run.trained
        accuracy = fork.evaluate()
        one_way = float(np.interp(sparsity, [s for s, _ in self.curve], [a for _, a in self.curve]))
        return accuracy - one_way + 0.005 * sum(counts) / budget, accuracy
