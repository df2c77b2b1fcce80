"""Zeros in a trained language model without training: weights that iCBS exchanges, and activations (SCAP).

    python benchmarks/language_zeros.py --data ../shared/data

Calibrated on windows of tinystories/train-sample.txt, evaluated on the first 100k tokens of validation.txt (windows of 512, the
protocol of `rs.perplexity`).
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.evaluate.perplexity import encode, opening, read
from resprout.methods.remove.icbs import Icbs
from resprout.tasks import hub
from resprout.tasks.text import Text

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--what", nargs="+", default=["scap", "icbs"], choices=["scap", "icbs"])
    parser.add_argument("--steps", type=int, default=16, help="of icbs, each a block in every tensor")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.6], help="activations that are zero")
    parser.add_argument("--modes", nargs="+", default=["zero", "median"], help="zero, median, kde")
    args = parser.parse_args()
    home, text = args.data / "stories260k", args.data / "tinystories"
    tokenizer = hub.tokenizer(home)
    train = encode(tokenizer, read(text / "train-sample.txt"))
    held_out = encode(tokenizer, read(text / "validation.txt"))[: 196 * 511]
    lines: list[dict[str, Any]] = []

    def fresh() -> torch.nn.Module:
        return find.network(f"hf:{home}", None)

    def note(model: torch.nn.Module, **facts: Any) -> None:
        lines.append(facts | {"perplexity": rs.perplexity(model, held_out, tokenizer, window=512).perplexity})
        print(lines[-1], flush=True)

    note(fresh(), what="dense")
    task = Text(train, held_out[:2048], held_out[:2048], 256, opening(tokenizer), 16, "tinystories")
    if "scap" in args.what:  # 64 windows of 256 tokens, as in the paper
        batches = [b for _, b in zip(range(4), task.batches("train"), strict=False)]
        for share in args.shares:
            for mode in args.modes:
                model = fresh()
                sparse = rs.sparsify_activations(model, share, data=batches, mode=mode)
                with torch.no_grad(), sparse.count() as count:
                    model(batches[0])
                note(model, what="scap", mode=mode, share=share, skipped=round(count.fraction, 4))
    if "icbs" in args.what:  # 32 windows of 128 tokens
        task = Text(train, held_out[:2048], held_out[:2048], 128, opening(tokenizer), 8, "tinystories")
        for steps in (0, args.steps):
            run = Run(fresh(), task, probe_batches=4)
            run.do(Mark("dense"))
            began = time.perf_counter()
            facts = run.do(Remove(Budget.parse("0.5"), Icbs(steps=steps, at_once=len(run.masks), every=4)))
            seconds, loss = round(time.perf_counter() - began, 1), [round(x, 4) for x in facts["loss"]]
            note(run.model, what="icbs", steps=steps, seconds=seconds, moved=facts["moved"], loss=loss)
        model = fresh()
        data = [b for _, b in zip(range(4), task.batches("train"), strict=False)]
        rs.prune_blocks(model, 0.5, data=data)
        note(model, what="wanda, block by block")
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "lines": lines}
    file = HERE / "results" / "language_zeros.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
