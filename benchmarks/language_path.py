r"""There and back for a language model: one way against bidirectional at equal tokens, over sparsity and over bytes.

Comparisons (`resprout compare`), resumable: weights, what says which dead weights come back ("scores"), channels with heads
("width"), and whole layers. Learning rates were chosen
at 80 % on validation text, the same for both arms.

    python benchmarks/language_path.py weights --data ../shared/data
    python benchmarks/language_path.py width --data ../shared/data --so-far
"""

import argparse
import dataclasses
import json
import math
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from resprout.compare import Comparison

HERE = Path(__file__).parent
ARM = "lr=1e-2, optimizer=adamw"
PARTS = {
    "weights": (
        (f"one_way({ARM})", f"bidirectional_gradual({ARM})"),
        ("0.8", "0.9", "0.95", "0.98"), "weight", 3,
    ),
    "scores": (
        (
            f"bidirectional_gradual(score=random, {ARM})", f"bidirectional_gradual({ARM})",
            f"bidirectional_gradual(score=newton_gain, {ARM})", f"bidirectional_gradual(score=wanda, {ARM})",
            f"bidirectional_gradual(score=gradient, {ARM})", f"bidirectional_gradual(score=saliency, {ARM})",
        ),
        ("0.9", "0.98"), "weight", 1,
    ),
    "width": (
        (f"one_way({ARM})", f"bidirectional_structured({ARM})"),
        ("0.5", "0.8"), "width", 3,
    ),
    "layers": (
        (
            f"one_way(score=taylor, {ARM})", f"one_way(score=oracle, {ARM})",
            f"bidirectional_structured(score=oracle, cut_score=oracle, {ARM})",
        ),
        ("0.3", "0.5"), "layer", 3,
    ),
}  # fmt: skip


def main() -> None:
    """Run a part, or read what has finished of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", default="../shared/data", help="folder with stories260k/ and tinystories/")
    parser.add_argument("--out", type=Path, default=Path("comparisons"))
    parser.add_argument("--so-far", action="store_true", help="run nothing; write what has finished")
    args = parser.parse_args()
    arms, sparsities, granularity, seeds = PARTS[args.part]
    out = args.out / f"language-{args.part}"
    words = [
        "compare",
        *arms,
        "--sparsity",
        *sparsities,
        "--granularity",
        granularity,
        "--epochs",
        "2",
        "--seeds",
        str(seeds),
    ]
    words += ["--task", "benchmarks/language_task.py:stories", "--data", f"{args.data}/tinystories"]
    words += ["--model", f"hf:{args.data}/stories260k", "--precision", "fp32", "--jobs", "1", "--out", str(out)]
    if not args.so_far:
        subprocess.run([sys.executable, "-m", "resprout", *words], check=True, cwd=HERE.parent)
    lines = []
    cells = pq.read_table(out / "table.parquet").to_pylist() if (out / "table.parquet").exists() else []
    for line in Comparison.read(out).lines:
        mine = [c for c in cells if c["arm"] == line.arm and float(c["asked"]) == float(line.asked)]
        facts = dataclasses.asdict(line) | {"verdict": line.against and line.against.verdict}
        facts |= {"perplexities": [1 / c["test"] for c in mine], "bytes": [c["bytes"] for c in mine]}
        lines.append(facts)
        print(line.asked, line.arm, f"perplexity {1 / line.test[0]:.2f}", line.against or "")
    dense = next((1 / c["test"] for c in cells if c["kind"] == "dense"), math.nan)
    facts = {
        "command": shlex.join(["resprout", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
    }
    file = HERE / "results" / f"language_{args.part}.json"
    file.write_text(json.dumps(facts | {"dense": dense, "lines": lines}, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
