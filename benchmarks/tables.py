"""Write the tables of docs/*.md that come from benchmarks/results/: none of their figures is typed.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, and NAME is a function of this file. `make docs` runs
it; `--check` only says whether a page is out of date.
"""

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
BETWEEN = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.S)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, blank lines around it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def read(name: str) -> dict:
    """A file of benchmarks/results/."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def mean(values: list[float]) -> str:
    """Mean and standard deviation of fractions, in percent."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def faster(times: dict) -> str:
    """Milliseconds before and after, and the ratio with its quartiles."""
    low, middle, high = times["ratio"]
    return f"{times['before']:.3g} -> {times['after']:.3g}, {middle:.2f} ({low:.2f}–{high:.2f})"


def resnet56_accuracy() -> str:
    """Accuracy of the smaller ResNet-56 at each budget."""
    found, rows = read("resnet56_channels"), []
    for budget in found["budgets"]:
        arms = {line["recipe"]: [] for line in found["table"]}
        for cell in found["cells"]:
            if cell["asked"] == budget:
                arms[cell["arm"]].append(cell["test"])
        rows.append(
            [budget, *(f"{mean(tests)} ({', '.join(f'{100 * t:.2f}' for t in tests)})" for tests in arms.values())]
        )
    return table(["budget", *(f"`{arm}`" for arm in arms)], rows)


def resnet56_latency() -> str:
    """What the smaller ResNet-56 gains."""
    rows = []
    for one in read("resnet56_channels")["latency"]:
        size = [f"{one['parameters'][1]:,}", f"{one['macs'][1] / one['images'] / 1e6:.1f} M", str(one["images"])]
        rows.append([one["asked"], f"`{one['arm']}`", *size, *map(faster, one["times"])])
    engines = [f"{t['engine']}: ms, times faster" for t in one["times"]]
    return table(["budget", "recipe", "parameters", "multiply-adds", "images", *engines], rows)


def main() -> None:
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        new = BETWEEN.sub(lambda m: m[1] + globals()[m[2]]() + m[3], text)
        if new != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new)
    print(f"{'out of date' if '--check' in sys.argv else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    main()
