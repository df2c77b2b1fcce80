"""The small text encoder, trained from nothing on SST-2: the network that pruning of encoders starts from.

    python benchmarks/encoder.py --data ../shared/data --weights runs/encoder_small.safetensors

Three epochs of AdamW; the state with the best of nine looks at validation remains, and the test split (dev.tsv) is read once.
Writes benchmarks/results/encoder.json. Take the weights up with: resprout fit --model encoder_small --weights FILE --task sst2.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from resprout import find
from resprout.core.run import Run
from resprout.core.train import Optimizer, Train
from resprout.methods.schedule.cosine import Cosine


def tell(event: str, facts: dict[str, Any]) -> None:
    """Print a line at each look."""
    if event == "look":
        print(f"{facts['trained']:6,} steps, validation {100 * facts['validation']:.2f} %", flush=True)


def main() -> None:
    """Train, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="safetensors to write")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/encoder.json"))
    args = parser.parse_args()
    task = find.task("sst2", args.data / "sst2", "encoder_small")
    model = find.network("encoder_small", None, args.seed)
    steps = round(args.epochs * task.steps_per_epoch)
    began = time.monotonic()
    run = Run(model, task, seed=args.seed)
    run.report = tell
    rise = Cosine(args.lr, 0.0, warmup=0.05)
    done = run.do(Train(steps, rise, Optimizer("adamw", decay=0.01), looks=9, best=True))
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": args.epochs,
        "steps": steps,
        "lr": args.lr,
        "seed": args.seed,
        "validation": done["validation"],
        "test": run.evaluate("test"),
        "seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }
    print(f"validation {100 * found['validation']:.2f} %, test {100 * found['test']:.2f} %, {found['seconds']} s")
    args.results.write_text(json.dumps(found, indent=1) + "\n")
    if args.weights is not None:
        args.weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, args.weights)


if __name__ == "__main__":
    main()
