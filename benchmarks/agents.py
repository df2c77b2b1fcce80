"""An agent pruned while it learns against one that stays dense: cart and pole, deep Q-learning, several seeds.

    python benchmarks/agents.py --seeds 3 --epochs 8

Return: mean length of 50 validation games as a share of 200 moves, averaged over the last three looks; "last" is that of 50 test
games. The interval is that of the interquartile mean over seeds, by bootstrap.
"""

import argparse

import numpy as np
import torch
from _said import said

from resprout import find
from resprout.core.budget import Budget
from resprout.core.run import Run
from resprout.reinforcement.diagnostics import interval, iqm
from resprout.reinforcement.rl_gmp import RlGmp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--sparsities", default="0,0.9")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    levels = [float(s) for s in asked.sparsities.split(",")]
    found: dict[float, list[float]] = {level: [] for level in levels}
    for seed in range(asked.seeds):
        for level in levels:
            model, task = find.network("cartpole_mlp", None, seed), find.task("cartpole", None, "")
            run = Run(model, task, seed=seed)
            RlGmp(epochs=asked.epochs)(run, [Budget.parse(level)])
            played = next(r for r in run.journal if r["step"] == "Play")
            looked = run.journal[-1]
            found[level].append(float(np.mean([v for *_, v in played["curve"][-3:]])))
            row = {"sparsity": round(run.masks.sparsity, 4), "seed": seed, "return": round(found[level][-1], 3)}
            row |= {"last": round(run.evaluate("test"), 3), "seconds": played["seconds"]}
            print(said(row | {k: round(looked[k], 3) for k in ("srank", "dormant", "norm", "spread")}), flush=True)
    for level in levels:
        scores = np.array(found[level])[:, None]
        low, high = interval(scores)
        print(said({"sparsity": level, "iqm": round(iqm(scores), 3), "interval": [round(low, 3), round(high, 3)]}))


if __name__ == "__main__":
    main()
