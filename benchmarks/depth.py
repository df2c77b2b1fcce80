"""What removers of layers, MLP channels and heads leave of a trained language model: perplexity on text unseen by any of them.

    python benchmarks/depth.py --data ../shared/data

Calibrated on windows of tinystories/train-sample.txt, evaluated on windows of tinystories/validation.txt (512 tokens, the
protocol of `rs.perplexity`). Nothing is trained. Budgets are shares of the weights in blocks, at least so many go.
"""

import argparse
import itertools
import json
import platform
import time
from pathlib import Path
from typing import cast

from torch import nn

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.granularity import Units
from resprout.core.kinds import Remover
from resprout.core.run import Run
from resprout.core.steps import Meet, Remove
from resprout.evaluate.perplexity import encode, read
from resprout.methods.allocate.global_ import Global
from resprout.methods.score.magnitude import Magnitude
from resprout.tasks import hub
from resprout.tasks.text import text

HERE = Path(__file__).parent
WAYS = {
    "layers by magnitude": None,
    "deepest blocks but the last": "deeper_layers(rule='deepest')",
    "deeper layers, angular": "deeper_layers",
    "ShortGPT": "minitron_depth(by='influence', contiguous=False)",
    "Minitron depth, influence": "minitron_depth(by='influence')",
    "Minitron depth, loss": "minitron_depth",
    "2SSP": "two_ssp",
    "MultiPruner": "multipruner",
    "FinerCut": "finercut",
    "BlockPruner": "multipruner(shares=(1, 0, 0))",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--samples", type=int, default=16, help="windows of 512 tokens to calibrate on")
    parser.add_argument("--windows", type=int, default=200, help="windows to evaluate on")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.4])
    args = parser.parse_args()
    home, folder = args.data / "stories260k", args.data / "tinystories"
    task, tokenizer = text(folder, tokenizer=home), hub.tokenizer(home)
    held_out = encode(tokenizer, read(folder / "validation.txt"))[: args.windows * 511]
    example = task.train[None, :64]
    dense = find.network(f"hf:{home}", None)
    groups = rs.trace(dense, example, layers=True).groups
    file = HERE / "results" / "depth.json"
    facts = {"calibration_tokens": args.samples * 512, "held_out_tokens": len(held_out), "lines": []}
    if file.exists() and {n: v for n, v in json.loads(file.read_text()).items() if n in facts} | {"lines": []} == facts:
        facts["lines"] = json.loads(file.read_text())["lines"]  # what has been measured in the same way stays
    known = {(line["way"], line.get("budget")) for line in facts["lines"]}

    def keep(**line: object) -> None:
        facts["lines"].append(line)
        when = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform()}
        file.write_text(json.dumps(when | facts, indent=1) + "\n")
        print({n: v for n, v in line.items() if n != "removed"}, flush=True)

    def perplexity(model: nn.Module) -> float:
        return rs.perplexity(model, held_out, tokenizer, window=512).perplexity

    if ("dense", None) not in known:
        keep(way="dense", perplexity=perplexity(dense))
    for budget, (name, way) in itertools.product(args.budgets, WAYS.items()):
        if (name, budget) in known:
            continue
        run = Run(
            find.network(f"hf:{home}", None), task, probe_batches=args.samples // task.batch_size,
            granularity=Units("layer"), groups=groups,
        )  # fmt: skip
        run.mark("dense")
        limit = Budget.parse(budget)
        byscore = Meet(limit, Magnitude(), Global())
        step = byscore if way is None else Remove(limit, cast("Remover", find.method("remove", way)))
        removed, gone = run.do(step).get("removed"), round(run.masks.sparsity, 4)
        keep(way=name, budget=budget, gone=gone, perplexity=perplexity(run.model), removed=removed)


if __name__ == "__main__":
    main()
