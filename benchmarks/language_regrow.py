"""There and back without training: cut a language model by Wanda past the target, and let each score say which weights return.

    python benchmarks/language_regrow.py --data ../shared/data
    python benchmarks/language_regrow.py --data ../shared/data --scores newton_gain --rounds 16

Calibrated and evaluated as language.py; the stump has `--stump` of the weights that the target has, and what returns has its
dense value. The control is one cut by Wanda straight to the target. Regrowth ranks all dead weights together; in several
rounds the scores are taken anew in each. What is in the results already is not run again.
"""

import argparse
import copy
import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import resprout as rs
from resprout import find
from resprout.evaluate.perplexity import encode, opening, read, windows
from resprout.tasks import hub
from resprout.tasks.text import Text

HERE = Path(__file__).parent
SCORES = ("random", "gradient", "saliency", "wanda", "newton_gain", "expected_gain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--samples", type=int, default=64, help="windows of 512 tokens to calibrate on")
    parser.add_argument("--windows", type=int, default=200, help="windows to evaluate on")
    parser.add_argument("--stump", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--scores", nargs="*", default=SCORES)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "language_regrow.json")
    args = parser.parse_args()
    home, text = args.data / "stories260k", args.data / "tinystories"
    tokenizer = hub.tokenizer(home)
    train, held_out = (encode(tokenizer, read(text / f"{name}.txt")) for name in ("train-sample", "validation"))
    held_out = held_out[: args.windows * 511]
    loss = Text(train, held_out, held_out, 512, opening(tokenizer), 8).loss
    rows = windows(train, 512, None, opening(tokenizer))[: args.samples]
    data, dense = list(torch.stack([r.ids for r in rows]).split(8)), find.network(f"hf:{home}", None)

    def perplexity(model: torch.nn.Module) -> float:
        return rs.perplexity(model, held_out, tokenizer, window=512).perplexity

    file: Path = args.results
    lines: list[dict[str, Any]] = json.loads(file.read_text())["lines"] if file.exists() else []

    def there(**line: Any) -> bool:
        return any(line.items() <= found.items() for found in lines)

    def keep(model: torch.nn.Module, began: float, **line: Any) -> None:
        seconds = round(time.perf_counter() - began, 1)
        lines.append(line | {"perplexity": perplexity(model), "seconds": seconds})
        print(lines[-1], flush=True)
        facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "lines": lines}
        file.write_text(json.dumps(facts, indent=1) + "\n")

    def wanda(sparsity: float) -> tuple[torch.nn.Module, rs.Masks]:
        model = find.network(f"hf:{home}", None)
        return model, rs.prune_blocks(model, sparsity, data=data, score="wanda")

    for sparsity in (0.5, 0.6, 0.7):
        began = time.perf_counter()
        if not there(way="Wanda, one cut", sparsity=sparsity):
            keep(wanda(sparsity)[0], began, way="Wanda, one cut", sparsity=sparsity)
        where = {"sparsity": sparsity, "stump": args.stump}
        cut, stump = wanda(1 - args.stump * (1 - sparsity))
        if not there(way="stump", **where):
            keep(cut, began, way="stump", **where)
        for score, rounds in itertools.product(args.scores, args.rounds):
            if there(way=score, rounds=rounds, **where):
                continue
            model, masks, began = copy.deepcopy(cut), stump, time.perf_counter()
            for r in range(1, rounds + 1):
                now = stump.sparsity + (sparsity - stump.sparsity) * r / rounds
                masks = rs.regrow(model, masks, now, score=score, fill="anchor", anchor=dense, data=data, loss=loss)
            keep(model, began, way=score, rounds=rounds, **where)


if __name__ == "__main__":
    main()
