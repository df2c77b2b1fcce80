"""Heads and MLP channels of a trained language model leave, nothing is trained: perplexity by each way to choose them.

    python benchmarks/width.py --data ../shared/data

Every way cuts to the same share of the blocks' weights. Calibrated on windows of tinystories/train-sample.txt, evaluated on
windows of tinystories/validation.txt (512 tokens, the protocol of `rs.perplexity`).
"""

import argparse
import copy
import json
import platform
import time
from pathlib import Path

import torch

import resprout as rs
from resprout import catalog, find
from resprout.core.budget import Budget
from resprout.core.granularity import Units
from resprout.core.kinds import Remover
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.steps import Remove
from resprout.evaluate.perplexity import encode, opening, read
from resprout.methods.recover.mean_shift import compensate
from resprout.methods.remove.bonsai import Bonsai
from resprout.methods.remove.by_score import ByScore
from resprout.methods.remove.cfsp import Cfsp
from resprout.methods.remove.k_prune import KPrune
from resprout.tasks import hub
from resprout.tasks.text import Text

HERE = Path(__file__).parent


def ranked(score: str, allocate: str) -> Remover:
    return ByScore(catalog.make("score", score), catalog.make("allocate", allocate), floor=1)


WAYS = {
    "magnitude": ranked("magnitude", "uniform"),
    "Taylor, first order (LLM-Pruner)": ranked("taylor", "global"),
    "Taylor, second order (LLM-Pruner)": ranked("taylor_mixed", "global"),
    "Minitron, width": ranked("minitron_width", "uniform"),
    "FLAP": ranked("flap", "global"),
    "FLAP, its means in biases": ranked("flap", "global"),
    "CFSP, as released": Cfsp(relative="channel"),
    "CFSP, shares of both sides": Cfsp(),
    "Bonsai": Bonsai(networks=150, batches=1),
    "K-prune without its fit": KPrune(refit=False),
    "K-prune": KPrune(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--budgets", nargs="+", default=["0.2"], help="shares of the blocks' weights that leave")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--batches", type=int, default=4, help="of 8 windows to calibrate on")
    parser.add_argument("--windows", type=int, default=200, help="windows to evaluate on")
    args = parser.parse_args()
    home, text = args.data / "stories260k", args.data / "tinystories"
    tokenizer = hub.tokenizer(home)
    train = encode(tokenizer, read(text / "train-sample.txt"))
    held_out = encode(tokenizer, read(text / "validation.txt"))[: args.windows * 511]
    task = Text(train, held_out, held_out, 512, opening(tokenizer), 8, "tinystories")
    dense = find.network(f"hf:{home}", None).eval()
    groups = rs.trace(dense, {"input_ids": torch.tensor([[1, 40, 50, 60, 70]])}).groups
    masks = Masks.dense(dense)

    def perplexity(model: torch.nn.Module) -> float:
        return rs.perplexity(model, held_out, tokenizer, window=512).perplexity

    lines = [{"way": "dense", "budget": "0", "perplexity": perplexity(dense)}]
    print(lines[-1], flush=True)
    for budget in args.budgets:
        for name in args.ways:
            model = copy.deepcopy(dense)
            run = Run(
                model, task, granularity=Units("width"), groups=selectable(model, groups, list(masks), masks),
                probe_batches=args.batches,
            )  # fmt: skip
            run.mark("dense")
            began = time.process_time()
            run.do(Remove(Budget.parse(budget), WAYS[name]))
            if "biases" in name:
                before = Probe(copy.deepcopy(dense), data=run.probe().data(), loss=task.loss, training=False)
                compensate(model, run.masks, before, create=True)
            seconds = round(time.process_time() - began, 1)
            found = {"way": name, "budget": budget, "perplexity": perplexity(model), "sparsity": run.masks.sparsity}
            lines.append(found | {"left": run.units.counts, "seconds": seconds})
            print(lines[-1], flush=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "lines": lines}
    facts |= {"calibration_windows": args.batches * 8, "held_out_tokens": len(held_out)}
    file = HERE / "results" / "width.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
