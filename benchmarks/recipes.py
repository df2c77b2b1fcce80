r"""One-way against bidirectional on a real network, at equal training steps.

A ResNet on CIFAR-10, pretrained, to one or several budgets; a recipe may have arguments, as in "one_way(until=0.4)". Every
cell (budget, recipe, seed) is one `resprout.fit` in its own process on one thread, resumable. Test data is read once per
cell, at its end. Of channels, the files hold the smaller network. Writes mean and spread to benchmarks/results/.

    python benchmarks/recipes.py --data ../shared/data --budgets 0.98 --epochs 8 --seeds 4
    python benchmarks/recipes.py --data ../shared/data --budgets 16KiB 32KiB --values int8 --epochs 8 --seeds 2
    python benchmarks/recipes.py --data ../shared/data --network resnet56 --granularity channel --budgets "62.7M macs" \
        --recipes "one_way(lr=0.05)" bidirectional_structured --epochs 4 --results benchmarks/results/resnet56_channels.json
"""

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RECIPES = ("one_way", "bidirectional_gradual")


def cell(args: argparse.Namespace) -> None:
    """Run one recipe with one seed, and print its result as JSON."""
    import torch

    import resprout as rs
    from resprout import find
    from resprout.tasks.cifar10 import cifar10

    torch.set_num_threads(args.threads)
    network = find.network(args.network, Path(args.data) / "cifar10-resnet" / f"{args.network}.safetensors", args.seed)
    task = cifar10(str(Path(args.data) / "cifar10"))
    began, told = time.monotonic(), [0.0]

    def report(event: str, facts: dict) -> None:
        if event == "train" and time.monotonic() - told[0] > 20:
            told[0] = time.monotonic()
            print(
                f"{args.budget} {args.recipe} seed {args.seed}: {facts['step']}/{facts['steps']} {facts['loss']:.3f}",
                file=sys.stderr,
            )

    result = rs.fit(
        network, task, args.budget, recipe=find.method("recipe", args.recipe), epochs=args.epochs, seed=args.seed,
        out=args.out, curve=False, values=args.values, granularity=args.granularity, report=report,
    )  # fmt: skip
    arrival = dataclasses.asdict(result.frontier[-1]) | {
        "arm": args.recipe,
        "asked": args.budget,
        "seed": args.seed,
        "dense_test": result.dense.test,
    }
    arrival |= {"recipe_configuration": result.config["recipe"], "precision": result.config["precision"]}
    print(json.dumps(arrival | {"seconds": round(time.monotonic() - began, 1)}))


def _gains(args: argparse.Namespace, rows: list[dict]) -> list[dict]:
    """Measure the smaller network of each recipe's first seed against the dense one, one image, one thread."""
    import copy

    import torch

    import resprout as rs
    from resprout import find

    torch.set_num_threads(1)
    dense = find.network(args.network, Path(args.data) / "cifar10-resnet" / f"{args.network}.safetensors", 0).eval()
    found = []
    for row in (r for r in rows if r["seed"] == 0):
        small = rs.load(row["file"], copy.deepcopy(dense))
        for batch in (1, 64):
            measured = rs.gain(dense, small, torch.randn(batch, 3, 32, 32), onnx=True)
            print(f"{row['arm']}, {row['asked']}, {batch} images:\n{measured}")
            facts = {"arm": row["arm"], "asked": row["asked"], "images": batch}
            found.append(facts | dataclasses.asdict(measured))
    return found


def main() -> None:
    """Run all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with cifar10/ and cifar10-resnet/")
    parser.add_argument("--budgets", nargs="+", default=["0.98"])
    parser.add_argument("--network", default="resnet20", help="resnet20, resnet32, resnet44 or resnet56")
    parser.add_argument(
        "--granularity", default="weight", help="what is cut and regrown: weight, channel, block:4x1, ..."
    )
    parser.add_argument("--values", default="fp16", help="how the file stores weights: fp32, fp16, int8 or int4")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each cell")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--results", default="benchmarks/results/resnet20_98.json")
    parser.add_argument("--budget", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        cell(args)
        return
    waiting = [(b, r, s) for s in range(args.seeds) for b in args.budgets for r in args.recipes]
    running: dict[tuple[str, str, int], subprocess.Popen] = {}
    rows = []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            budget, recipe, seed = job = waiting.pop(0)
            command = [sys.executable, __file__, "--budget", budget, "--recipe", recipe, "--seed", str(seed)]
            for name in ("data", "network", "granularity", "values", "epochs", "threads", "out"):
                command += [f"--{name}", str(getattr(args, name))]
            running[job] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for job, process in list(running.items()):
            if process.poll() is not None:
                output = process.communicate()[0]
                if process.returncode:
                    sys.exit(f"{job} failed with exit code {process.returncode}; start again to resume")
                rows.append(json.loads(output.splitlines()[-1]))
                print(f"{job}: test {rows[-1]['test']:.4f}, validation {rows[-1]['validation']:.4f}", flush=True)
                del running[job]
        time.sleep(1)
    gains = [] if args.granularity not in ("channel", "layer") else _gains(args, rows)
    for row in rows:
        row["file"] = Path(row["file"]).name
    table = []
    for budget, recipe in ((b, r) for b in args.budgets for r in args.recipes):
        row: dict[str, float | str] = {"budget": budget, "recipe": recipe, "seeds": args.seeds}
        for split in ("validation", "test"):
            found = [r[split] for r in rows if r["arm"] == recipe and r["asked"] == budget]
            row |= {
                f"{split}_mean": statistics.mean(found),
                f"{split}_sd": statistics.stdev(found) if len(found) > 1 else 0.0,
            }
        table.append(row)
        print(f"{budget:8} {recipe:24} test {100 * row['test_mean']:.2f} ± {100 * row['test_sd']:.2f} %")
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
    }
    facts |= {
        "network": args.network,
        "granularity": args.granularity,
        "epochs": args.epochs,
        "budgets": args.budgets,
        "values": args.values,
        "table": table,
        **({"latency": gains} if gains else {}),
        "cells": sorted(rows, key=lambda r: r["seed"]),
    }
    Path(args.results).parent.mkdir(parents=True, exist_ok=True)
    Path(args.results).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
