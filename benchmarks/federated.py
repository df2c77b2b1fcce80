"""FedTiny against a random mask that stays, and what choosing by shared batch norms is worth: digits, ten clients of two classes.

    python benchmarks/federated.py

The server has trained digits_cnn on a tenth of the training samples; at 5 % density then come rounds of federated averaging.
Ranks: of the candidate chosen among five, by the accuracy that each has after its batch norms were set by all clients (0 is
best).
"""

import argparse
import dataclasses

import torch
from _said import said

from resprout import find
from resprout.core.budget import Budget
from resprout.core.run import Run
from resprout.core.steps import Mark
from resprout.core.train import Optimizer, Train
from resprout.federated._steps import Choose, sent, size
from resprout.federated.clients import Federation
from resprout.federated.fedtiny import FedTiny
from resprout.methods.allocate.erk import Erk
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.random import Random


def served(seed: int, federation: Federation) -> Run:
    """The server's network, trained on what it has itself; the clients have the rest."""
    task = find.task("digits", None, "digits_cnn")
    x, y = task.train
    cut = len(y) // 10
    own = dataclasses.replace(task, train=(x[:cut], y[:cut]), batch_size=32)
    run = Run(find.network("digits_cnn", None, seed), own, seed=seed)
    run.do(Train(60, Cosine(0.05, 0.0), Optimizer()))
    run.do(Mark("dense"))
    run.task = dataclasses.replace(task, train=(x[cut:], y[cut:]), batch_size=32)
    return run


def ranks(run: Run, federation: Federation, budget: Budget, spread: float) -> dict[str, int]:
    """Where the choice of each kind of norms stands among the candidates."""
    steps = {n: Choose(federation, budget, 5, spread, Magnitude(), Erk(), n) for n in ("shared", "own", "server")}
    pool, accuracy = steps["shared"].pool(run), []
    chosen = {n: step(run.fork())["chosen"] for n, step in steps.items()}
    for masks in pool:
        alone = dataclasses.replace(steps["shared"], candidates=1)
        twin = run.fork()
        twin.set_masks(masks)
        alone._judge(twin, [federation.client(run.task, i) for i in range(federation.count)],
                     [len(p) for p in federation.split(run.task)])  # fmt: skip
        accuracy.append(twin.evaluate("test"))
    order = sorted(range(len(pool)), key=lambda i: -accuracy[i])
    return {n: order.index(i) for n, i in chosen.items()} | {"best": max(accuracy), "worst": min(accuracy)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--from-seed", type=int, default=0)
    parser.add_argument(
        "--arms", nargs="*", default=["FedTiny", "random, fixed", "magnitude, fixed", "its choice alone"]
    )
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--budget", default="0.95")
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--ranks", type=int, default=4, help="seeds of the ranks")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    federation, budget = Federation(10, 10, classes=2), Budget.parse(asked.budget)
    for seed in range(asked.ranks):
        print(
            said({"seed": seed, "rank": ranks(served(seed, federation), federation, budget, asked.spread)}),
            flush=True,
        )
    whole = FedTiny(epochs=asked.epochs, federation=federation, local=2, spread=asked.spread)
    arms = {
        "FedTiny": whole,
        "random, fixed": dataclasses.replace(whole, until=0.0, candidates=1, score=Random()),
        "magnitude, fixed": dataclasses.replace(whole, until=0.0, candidates=1),
        "its choice alone": dataclasses.replace(whole, until=0.0),
    }
    for seed in range(asked.from_seed, asked.seeds):
        for name in asked.arms:
            run = served(seed, federation)
            arms[name](run, [budget])
            row = {"arm": name, "seed": seed, "test": round(run.evaluate("test"), 4), "sparsity": run.masks.sparsity}
            dense = size(run) - run.masks.alive + run.masks.total
            rounds = sum(r["step"] == "Round" for r in run.journal)
            print(said(row | {"sent": sent(run.journal), "dense would send": 2 * rounds * 10 * dense}), flush=True)


if __name__ == "__main__":
    main()
