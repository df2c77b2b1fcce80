"""Masks that are learned against magnitude where a network is fine-tuned for other classes than it was trained for.

The toy of movement pruning: an MLP learns the digits 0 to 4, and is then pruned while it learns 5 to 9 from 400 images. All arms
have the same steps; learning rates are chosen on validation data (images of 5 to 9 that nobody trains on), for each arm.

    python benchmarks/transfer.py            # a minute; writes benchmarks/results/transfer.json
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.kinds import Recipe
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Optimizer, Train
from resprout.methods.gate.transport import Transport
from resprout.methods.recipe.learned_mask import LearnedMask
from resprout.methods.recipe.one_way import OneWay
from resprout.methods.schedule.cosine import Cosine
from resprout.tasks.digits import digits

SPARSITIES = (0.95, 0.98, 0.99)
RATES = (3e-3, 1e-2)
EPOCHS = 20


def halves(seed: int) -> tuple[rs.Arrays, rs.Arrays]:
    """The task of the first five classes, and that of the last five with 400 images to train on."""
    whole = digits(seed=seed)
    tasks = []
    for first in (0, 5):
        parts = []
        for x, y in (whole.train, whole.validation, whole.test):
            mine = (y >= first) & (y < first + 5)
            parts.append((x[mine], y[mine] - first))
        if first:
            parts[0] = tuple(t[:400] for t in parts[0])
        tasks.append(
            rs.Arrays(*parts, mean=(0.3,), std=(0.37,), batch_size=32, name=f"digits from {first}, split {seed}")
        )
    return tasks[0], tasks[1]


def learned(seed: int, task: rs.Arrays) -> nn.Module:
    """An MLP that knows the first five classes, with a fresh head."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)
    )
    Train(20 * task.steps_per_epoch, Cosine(3e-3, 0.0), Optimizer("adamw"))(Run(model, task, seed=seed))
    model[5].reset_parameters()  # pyright: ignore
    return model


def arms(lr: float) -> dict[str, Recipe]:
    """What is compared, at one learning rate."""
    adamw = Optimizer("adamw")
    return {
        "magnitude, gradual": OneWay(EPOCHS, lr=lr, optimizer=adamw),
        "movement": LearnedMask(EPOCHS, lr=lr, optimizer=Optimizer("adamw", times=10.0)),
        "transport": LearnedMask(EPOCHS, Transport(), lr=lr, optimizer=Optimizer("adamw", times=1.0)),
    }


def main() -> None:
    """Run all, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed in track(range(parser.parse_args().seeds), description="seeds"):
        before, after = halves(seed)
        start = learned(seed, before)
        for sparsity in SPARSITIES:
            for name in arms(1.0):
                tries = []
                for lr in RATES:
                    run = Run(start, after, seed=seed).fork()
                    run.do(Mark("dense"))
                    arms(lr)[name](run, [Budget.parse(sparsity)])
                    tries.append({"lr": lr, "validation": run.evaluate(), "steps": run.trained, "run": run})
                best = max(tries, key=lambda t: t["validation"])
                row = {k: best[k] for k in ("lr", "validation", "steps")} | {"test": best["run"].evaluate("test")}
                found.setdefault(name, {}).setdefault(str(sparsity), []).append(row)
    for name, cells in found.items():
        tests = {s: [r["test"] for r in rows] for s, rows in cells.items()}
        said = (f"{s}: {100 * statistics.mean(t):.1f} ± {100 * statistics.pstdev(t):.1f} %" for s, t in tests.items())
        print(f"{name:20}", *said, sep="  ")
    out = Path(__file__).parent / "results" / "transfer.json"
    out.write_text(json.dumps({"command": " ".join(sys.argv), "found": found}, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
