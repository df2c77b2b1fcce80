"""One-shot pruning of a trained language model, block by block: perplexity on text that the calibration has not seen.

    python benchmarks/language.py --data ../shared/data

Calibrated on windows of tinystories/train-sample.txt, evaluated on windows of tinystories/validation.txt (512 tokens, the
protocol of `rs.perplexity`). Nothing is trained.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import resprout as rs
from resprout import find
from resprout.evaluate.perplexity import encode, opening, read, windows
from resprout.tasks import hub

HERE = Path(__file__).parent
PATTERN = {"granularity": "2:4"}
WAYS = {
    "magnitude": {"score": "magnitude", "granularity": "weight"},
    "magnitude, LAMP": {"score": "magnitude", "allocate": "lamp", "granularity": "weight"},
    "Wanda": {"score": "wanda"},
    "Wanda, OWL": {"score": "wanda", "allocate": "owl"},
    "Wanda, DLP": {"score": "wanda", "allocate": "dlp"},
    "SparseGPT": {"score": None, "solver": "sparsegpt", "granularity": "weight"},
    "SparseGPT, by row": {"score": None, "solver": "sparsegpt"},
    "SparseGPT, by row, OWL": {"score": None, "solver": "sparsegpt", "allocate": "owl"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--samples", type=int, default=64, help="windows of 512 tokens to calibrate on")
    parser.add_argument("--windows", type=int, default=200, help="windows to evaluate on")
    args = parser.parse_args()
    home, text = args.data / "stories260k", args.data / "tinystories"
    tokenizer = hub.tokenizer(home)

    def ids(file: str, most: int) -> torch.Tensor:
        rows = windows(encode(tokenizer, read(text / file)), 512, None, opening(tokenizer))
        return torch.stack([r.ids for r in rows[:most]])

    data = list(ids("train-sample.txt", args.samples).split(8))
    held_out = encode(tokenizer, read(text / "validation.txt"))[: args.windows * 511]

    def perplexity(model: torch.nn.Module) -> float:
        return rs.perplexity(model, held_out, tokenizer, window=512).perplexity

    lines = [{"way": "dense", "sparsity": "0", "perplexity": perplexity(find.network(f"hf:{home}", None))}]
    for sparsity in (0.5, 0.6, 0.7, "2:4"):
        for name, way in WAYS.items():
            if sparsity == "2:4" and ("," in name):
                continue
            model = find.network(f"hf:{home}", None)
            began = time.perf_counter()
            masks = rs.prune_blocks(
                model,
                0.5 if sparsity == "2:4" else sparsity,
                data=data,
                **(way | (PATTERN if sparsity == "2:4" else {})),
            )
            seconds = time.perf_counter() - began
            found = {"way": name, "sparsity": str(sparsity), "perplexity": perplexity(model), "alive": masks.alive}
            lines.append(found | {"seconds": round(seconds, 2)})
            print(lines[-1], flush=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "lines": lines}
    facts |= {"calibration_tokens": args.samples * 512, "held_out_tokens": len(held_out)}
    file = HERE / "results" / "language.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
