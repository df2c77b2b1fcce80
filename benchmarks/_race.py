"""Small networks of digits that recipes start from, and races between recipes at the same budget."""

import time
from itertools import pairwise

import torch
from torch import nn

import resprout as rs
from resprout import find
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Train
from resprout.methods.schedule.cosine import Cosine
from resprout.tasks.digits import digits


def mlp(seed: int, *hidden: int) -> nn.Sequential:
    """A network of digits, 64-100-50-10 unless said otherwise."""
    torch.manual_seed(seed)
    sizes, layers = (64, *(hidden or (100, 50))), []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def start(seed: int, epochs: float = 15, *hidden: int) -> Run:
    """A run with its points "start" and "dense"."""
    run = Run(mlp(seed, *hidden), digits(), seed=seed)
    run.do(Mark("start"))
    if epochs:
        run.do(Train(round(epochs * run.task.steps_per_epoch), Cosine(0.1, 0.0, warmup=0.1)))
    run.do(Mark("dense"))
    return run


def race(recipes: dict[str, str], budget: str, seeds: int, epochs: float = 15, *hidden: int) -> dict[str, list[Run]]:
    """Walk every recipe from the same networks, and print test accuracies."""
    runs: dict[str, list[Run]] = {}
    for name, text in recipes.items():
        began = time.process_time()
        for seed in range(seeds):
            run = start(seed, epochs, *hidden)
            find.method("recipe", text)(run, [rs.Budget.parse(budget)])  # pyright: ignore
            runs.setdefault(name, []).append(run)
        found = [100 * run.evaluate("test") for run in runs[name]]
        each, spent = ", ".join(f"{a:.1f}" for a in found), time.process_time() - began
        print(f"{name:26} {budget}: {sum(found) / seeds:5.1f}  ({each})  {spent:.0f} s", flush=True)
    return runs
