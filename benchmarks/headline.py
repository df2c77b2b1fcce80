r"""The headline: one way against back and forth on real networks at equal training, and what a search for the allocation costs.

Each part is a handful of comparisons (`resprout compare`), resumable: start it again and it goes on. What has finished when
it is stopped with --so-far is written too, and the page says how many seeds there are.

    python benchmarks/headline.py resnet20 --data ../shared/data
    python benchmarks/headline.py vgg16 --data ../shared/data
    python benchmarks/headline.py search --data ../shared/data
    python benchmarks/headline.py resnet20 --so-far
"""

import argparse
import dataclasses
import json
import platform
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from resprout.compare import Comparison, compare

HERE = Path(__file__).parent
PAPER = "bidirectional_iterative(stump={}, allocator=proportional)"
ONE_CUT = (
    "bidirectional_oneshot(path=bidirectional_iterative(rate=0.999999999, fractions=(0.01,), stump={}, "
    "allocator=proportional))"
)


@dataclass(frozen=True)
class Rows:
    """Some rows of a part: arms at sparsities, as one line of `resprout compare`."""

    arms: tuple[str, ...]
    sparsity: tuple[float, ...]
    model: str
    epochs: float
    seeds: int

    def line(self, data: str, out: Path) -> str:
        """The command."""
        given = [*self.arms, "--sparsity", *map(str, self.sparsity), "--task", "cifar10", "--model", self.model]
        given += [
            "--data",
            f"{data}/cifar10",
            "--weights",
            str(weights(data, self.model)),
            "--epochs",
            f"{self.epochs:g}",
        ]
        return shlex.join(["resprout", "compare", *given, "--seeds", str(self.seeds), "--out", str(out)])


# The stump lies at 98.85 %, as in the paper: 1.15 % of the weights, here as a part of what the target keeps.
PARTS = {
    "vgg16": (
        Rows(("one_way", "bidirectional_gradual", PAPER.format(0.365)), (0.9685,), "vgg16", 4, 1),
        Rows(("one_way", "bidirectional_gradual", ONE_CUT.format(0.319)), (0.9639,), "vgg16", 4, 1),
        Rows(("one_way", "bidirectional_gradual", ONE_CUT.format(0.163)), (0.9296,), "vgg16", 4, 1),
        Rows(("one_way",), (0.9885,), "vgg16", 4, 1),
    ),
    "resnet20": (
        Rows(("one_way", "bidirectional_gradual", PAPER.format(0.5)), (0.99, 0.98, 0.995, 0.95), "resnet20", 4, 3),
    ),
    "search": (
        Rows(
            (
                "bidirectional_iterative(allocator=global, score=expected_gain, fill=anchor)",
                "bidirectional_iterative(allocator=global)",
                "bidirectional_iterative(allocator=proportional)",
                "bidirectional_iterative(allocator=greedy)",
                "bidirectional_iterative(allocator=policy_gradient, controller=(30, 0.25))",
            ),
            (0.98,), "resnet20", 2, 3,
        ),
    ),
}  # fmt: skip


def weights(data: str, model: str) -> Path:
    """The trained network."""
    return Path(data) / ("cifar10-vgg" if model.startswith("vgg") else "cifar10-resnet") / f"{model}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", default="../shared/data", help="folder with cifar10/, cifar10-resnet/, cifar10-vgg/")
    parser.add_argument("--out", type=Path, default=Path("comparisons"))
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each cell")
    parser.add_argument("--so-far", action="store_true", help="run nothing; write what has finished")
    args = parser.parse_args()
    lines, commands = [], []
    for i, rows in enumerate(PARTS[args.part]):
        out = args.out / f"{args.part}-{i}" if len(PARTS[args.part]) > 1 else args.out / args.part
        commands.append(rows.line(args.data, out))
        print(f"$ {commands[-1]}", flush=True)
        if args.so_far:
            if not (out / "compare.json").exists():
                continue
            done = Comparison.read(out)
        else:
            done = compare(
                rows.arms, sparsity=rows.sparsity, task="cifar10", model=rows.model, data=Path(args.data) / "cifar10",
                weights=weights(args.data, rows.model), epochs=rows.epochs, seeds=rows.seeds, jobs=args.jobs,
                threads=args.threads, out=out, command=commands[-1], report=told(),
            )  # fmt: skip
        for line in done.lines:
            lines.append(
                dataclasses.asdict(line) | {"verdict": line.against and line.against.verdict, "epochs": rows.epochs}
            )
            print(
                f"{line.asked} {line.arm}: test {100 * line.test[0]:.2f}, {line.seeds} seeds, {line.against or 'baseline'}"
            )
    facts = {"commands": commands, "date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "lines": lines}
    file = HERE / "results" / f"headline_{args.part}.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {file}")


def told():
    """A report that prints a line a minute."""
    last = [0.0]

    def tell(facts: dict) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            now = "; ".join(f"{title[-60:]} {steps} steps" for title, steps, _ in facts["running"])
            print(f"{facts['done']}/{facts['total']} cells; {now}", flush=True)

    return tell


if __name__ == "__main__":
    main()
