"""Write the tables of README.md and docs/*.md that come from benchmarks/results/: none of their figures is typed.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, and NAME is a function of this file. `make docs` runs
it; `--check` only says whether a page is out of date.
"""

import json
import math
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = [HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md"))]
BETWEEN = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.S)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, blank lines around it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def read(name: str) -> Any:
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


def pairs(name: str, what: str | None = None) -> str:
    """One-way beside bidirectional, seed by seed; where there are several budgets these in a first column `what`."""
    cells, rows = read(name)["cells"], []
    for asked in dict.fromkeys(c.get("asked", c["budget"]) for c in cells):
        arms: dict[str, dict[int, float]] = {}
        for cell in cells:
            if cell.get("asked", cell["budget"]) == asked:
                arms.setdefault(cell["arm"], {})[cell["seed"]] = cell["test"]
        first, second = arms.values()
        lead = [asked] if what else []
        for seed in sorted(first):
            gap = f"{100 * (second[seed] - first[seed]):+.2f}"
            rows.append([*lead, str(seed), f"{100 * first[seed]:.2f}", f"{100 * second[seed]:.2f}", gap])
        if not what:
            gaps = [100 * (second[s] - first[s]) for s in first]
            spread = f"{statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps):.2f}"
            rows.append(["mean ± sd", mean(list(first.values())), mean(list(second.values())), spread])
    return table([*([what] if what else []), "seed", "one-way", "bidirectional", "difference"], rows)


def resnet20_98() -> str:
    """ResNet-20 at 98 %."""
    return pairs("resnet20_98")


def resnet20_kib() -> str:
    """ResNet-20 to files of 16 and 32 KiB."""
    return pairs("resnet20_kib", "file")


def channel_scores() -> str:
    """ResNet-56 cut once to half of its multiply-adds, by score and allocation."""
    found: dict[str, dict[str, str]] = {}
    for line in read("channels")["table"]:
        found.setdefault(line["score"], {})[line["way"]] = f"{100 * line['validation']:.1f}"
    ways = list(next(iter(found.values())))
    rows = [[f"`{score}`", *(of.get(way, "") for way in ways)] for score, of in found.items()]
    return table(["score", *ways], sorted(rows, key=lambda r: -float(r[1])))


def rounding() -> str:
    """What widths that are multiples of 8 gain."""
    words = {"as_they_come": "as they come", "round_to_8": "round_to=8",
             "round_to_8_beside_as_they_come": "round_to=8 beside as they come"}  # fmt: skip
    rows = []
    for one in read("structure")["round"]:
        for key, widths in words.items():
            macs = f"{one[key]['multiply_adds'][1] / 1e6:.0f} M" if "beside" not in key else ""
            for engine, times in one[key]["times"].items():
                low, middle, high = times["ratio"]
                both = [f"{ms:g}" for ms in times["ms"]]
                rows.append([one["model"], widths, macs, engine, *both, f"{middle:.2f} ({low:.2f}–{high:.2f})"])
    return table(["model", "widths", "multiply-adds", "engine", "dense ms", "ms", "times faster (quartiles)"], rows)


def traces() -> str:
    """Groups found, and how long that takes, beside torch-pruning."""
    rows = []
    for one in read("structure")["trace"]:
        ours, theirs = f"{one['ours_ms']:.0f}", f"{one['theirs_ms']:.0f}" if "theirs_ms" in one else ""
        other = str(one.get("theirs_groups", "")) or one["theirs_fails"].partition(":")[0]
        rows.append([one["model"], str(one["groups"]), other, str(one.get("same_groups", "")), ours, theirs])
    return table(["model", "groups", "torch-pruning's", "the same", "ms", "torch-pruning, ms"], rows)


def file_sizes() -> str:
    """Bytes of VGG16's file with LAMP masks."""
    found: dict[float, dict[str, Any]] = {}
    for line in read("file")["sizes"]:
        if line["allocate"] == "lamp":
            found.setdefault(line["sparsity"], {})[line["values"]] = line
    rows = []
    for sparsity, of in found.items():
        whole, eight, four = (f"{of[v]['bytes']:,}" for v in ("fp32", "int8", "int4"))
        ratio, error = f"{of['int8']['ratio']:.3f}", [f"{100 * of[v]['error']:.2g} %" for v in ("int8", "int4")]
        times = f"{of['int8']['times_smaller']:.0f}"
        rows.append(
            [f"{100 * sparsity:g} %", whole, f"{of['fp16']['bytes']:,}", eight, ratio, times, error[0], four, error[1]]
        )
    head = [
        "sparsity",
        "fp32",
        "fp16",
        "int8",
        "int8 / bound",
        "int8, times smaller than float32",
        "int8 error",
        "int4",
    ]
    return table([*head, "int4 error"], rows)


def file_speeds() -> str:
    """How fast VGG16's file is written, read and measured."""
    rows = []
    for line in read("file")["speeds"]:
        if line["allocate"] == "lamp":
            speeds = [f"{line[f'{way}_mb_per_s']:,}" for way in ("encode", "decode")]
            rows.append([f"{100 * line['sparsity']:g} %", line["values"], *speeds, f"{line['size_ms']:.1f} ms"])
    return table(["sparsity", "values", "encode", "decode", "size"], rows)


def microcontroller() -> str:
    """What the exported C takes on each device."""
    names, rows = ("flash", "weights", "code", "ram", "stack_used", "inputs"), []
    for one in read("microcontroller"):
        lead = [f"{one['network']} ({one['file']:,})", one["device"]]
        if "flash" not in one:
            rows.append([*lead, one["fits"].replace(f"{one['device']} would need", "needs").removesuffix(" for this network"),
                         *[""] * 7])  # fmt: skip
        else:
            same = "yes" if one["same_labels"] else "NO"
            rows.append([*lead, *(f"{one[n]:,}" for n in names), f"{one['largest_error']:.1e}", same])
    head = ["network (file)", "device", "flash", "weights", "code", "RAM", "stack used", "inputs", "largest error"]
    return table([*head, "same labels"], rows)


def headline(part: str) -> str:
    """What a part of headline.py found: every arm at every sparsity, and the difference to the first."""
    rows = []
    for line in read(f"headline_{part}")["lines"]:
        test, spread = (100 * v for v in line["test"])
        shown = f"{test:.2f}" + (f" ± {spread:.2f}" if line["seeds"] > 1 else "")
        gap = line["against"]
        against = f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]" if gap else ""
        steps = f"{line['steps'][1]:,}" + (f" + {line['searched']:,}" if line["searched"] else "")
        cells = [line["asked"], f"`{line['arm']}`", shown, against, line["verdict"] or "", steps, str(line["seeds"])]
        rows.append(cells)
    head = ["sparsity", "arm", "test accuracy, %", "against the first", "", "steps (+ searched)", "seeds"]
    return table(head, rows)


def headline_resnet20() -> str:
    """ResNet-20."""
    return headline("resnet20")


def headline_vgg16() -> str:
    """VGG16."""
    return headline("vgg16")


def headline_search() -> str:
    """The price of the search."""
    return headline("search")


def language() -> str:
    """Perplexity of a language model pruned block by block."""
    found: dict[str, dict[str, str]] = {}
    for line in read("language")["lines"]:
        found.setdefault(line["way"], {})[line["sparsity"]] = f"{line['perplexity']:.2f}"
    dense = found.pop("dense")["0"]
    columns = list(dict.fromkeys(s for of in found.values() for s in of))
    head = [f"perplexity (dense {dense})", *(f"{100 * float(s):g} %" if ":" not in s else s for s in columns)]
    return table(head, [[way, *(of.get(s, "") for s in columns)] for way, of in found.items()])


def recovery() -> str:
    """What short trainings give back to a pruned language model; of two learning rates the better on validation text."""
    lines = read("recovery")["lines"]
    dense = next(line for line in lines if line["way"] == "dense")
    rows = [["", "dense", "", "", f"{dense['validation']:.2f}", f"{dense['test']:.2f}", ""]]
    for cut in dict.fromkeys(line["cut"] for line in lines if line["cut"]):
        found: dict[str, dict[str, Any]] = {line["way"]: {} for line in lines}
        for line in lines:
            if line["cut"] == cut and line["validation"] < found[line["way"]].get("validation", math.inf):
                found[line["way"]] = line
        start = found["nothing"]
        for way, best in found.items():
            if best:
                back = math.log(start["test"] / best["test"]) / math.log(start["test"] / dense["test"])
                trained = [f"{best['tuned']:,}", f"{best['lr']:g}"] if "lr" in best else ["", ""]
                scores = [f"{best['validation']:.2f}", f"{best['test']:.2f}", f"{100 * back:.0f} %" if back else ""]
                rows.append([cut, way, *trained, *scores])
    return table(["cut", "trained", "numbers", "lr", "on validation", "on test", "of the lost nats, given back"], rows)


def plain(command: str) -> str:
    """A command as one would type it here."""
    words = shlex.split(command.split(" --out")[0].replace("/work/shared", "../shared"))
    return " ".join(f'"{w}"' if "(" in w else w for w in words)


def studies() -> str:
    """Claims and verdicts."""
    said = {True: "holds here", False: "does not hold here", None: "not decided here"}
    parts = []
    for one in read("studies"):
        parts += [
            f"## {one['name']}",
            "",
            f"Claimed: {one['claim']}",
            "",
            f"**{said[one['holds']].capitalize()}.** {one['verdict']}",
            "",
        ]
        parts += [
            "```console",
            f"$ {plain(one['command'])}",
            "```",
            "",
            f"{one['seconds'] / 60:.1f} minutes; {one['configuration']}.",
            "",
        ]
    return "\n" + "\n".join(parts)


def each() -> str:
    """What the command of each system printed."""
    parts = []
    for key, found in read("each").items():
        took = f"{found['seconds'] / 60:.1f} minutes on a busy core." if "seconds" in found else ""
        took = took or f"{found['processor'] / 60:.1f} minutes of a processor core."
        parts += [f"### {key}", "", "```console", f"$ {found['command']}", *found["lines"], "```", "", took, ""]
    return "\n" + "\n".join(parts)


def there_and_back(part: str) -> str:
    """Perplexity of a language model, one way and back and forth."""
    found, rows = read(f"language_{part}"), []
    for line in found["lines"]:
        values, size = line["perplexities"], statistics.mean(line["bytes"])
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        gap = line["against"]
        against = f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]" if gap else ""
        each = f"{100 * line['test'][0]:.2f}"
        asked = f"{line['asked']}" + (
            f" ({line['sparsity']:.3f})" if line["sparsity"] - float(line["asked"]) > 1e-3 else ""
        )
        arm = re.sub(r"(, )?lr=1e-2, optimizer=adamw", "", line["arm"]).replace("()", "")
        cells = [asked, f"`{arm}`", f"{statistics.mean(values):.2f}{spread}", each, against]
        rows.append([*cells, line["verdict"] or "", f"{size / 1024:.0f} KiB", str(line["seeds"])])
    head = [
        "sparsity (reached)",
        "arm",
        f"perplexity (dense {found['dense']:.2f})",
        "likelihood, %",
        "against the first",
        "",
        "file",
        "seeds",
    ]
    return table(head, rows)


def language_regrow() -> str:
    """There and back without training: perplexity by what says which weights return, and in how many rounds."""
    found: dict[tuple[str, ...], dict[float, float]] = {}
    for line in read("language_regrow")["lines"]:
        back = line["way"] not in ("Wanda, one cut", "stump")
        way = f"`{line['way']}`, {line['rounds']} round{'s' * (line['rounds'] > 1)}" if back else line["way"]
        found.setdefault((way, f"{line['stump']:g}" if "stump" in line else ""), {})[line["sparsity"]] = line[
            "perplexity"
        ]
    columns = sorted({s for cells in found.values() for s in cells})
    rows = [[*key, *(f"{cells[s]:.2f}" if s in cells else "" for s in columns)] for key, cells in found.items()]
    return table(["what returns", "stump", *(f"{100 * s:.0f} %" for s in columns)], rows)


def language_weights() -> str:
    """Weights."""
    return there_and_back("weights")


def language_scores() -> str:
    """What says which dead weights come back."""
    return there_and_back("scores")


def language_width() -> str:
    """Channels and heads."""
    return there_and_back("width")


def language_layers() -> str:
    """Whole layers."""
    return there_and_back("layers")


def layerwise_memory() -> str:
    """Peak memory of 1.1 billion weights from folder to folder and whole, beside what must be in memory; and of 70 billion."""
    found, gb = read("layerwise_memory"), 1e9
    needed, rows = found["arithmetic"]["1.1 B"], []
    for line in found["lines"]:
        grams = needed["grams"] if line["method"] == "sparsegpt" else 0
        least = found["idle"] + (
            needed["together"] - needed["grams"] + grams if line["way"] == "folder" else needed["whole"]
        )
        way = "from folder to folder" if line["way"] == "folder" else "loaded whole"
        rows.append(
            [
                "1.1 B",
                line["method"],
                way,
                f"{line['peak'] / gb:.2f} GB",
                f"{least / gb:.2f} GB",
                f"{line['seconds']:.0f} s",
            ]
        )
    for name, of in found["arithmetic"].items():
        if name != "1.1 B":
            rows.append([name, "sparsegpt", "from folder to folder", "", f"{of['together'] / gb:.2f} GB", ""])
            rows.append([name, "sparsegpt", "loaded whole", "", f"{of['whole'] / gb:.2f} GB", ""])
    return table(["weights", "method", "way", "peak", "by arithmetic", "time, busy machine"], rows)


def layerwise_speed() -> str:
    """Time of one block beside a transcription of the published procedure and the floor."""
    found, rows = read("layerwise_speed"), []
    for method, line in found["lines"].items():
        for name in ("ours", "transcription"):
            low, middle, high = line["to_floor"][name]
            rows.append([method, name, f"{line['seconds'][name]:.2f} s", f"{middle:.2f} ({low:.2f}–{high:.2f})"])
        rows.append([method, "floor", f"{line['seconds']['floor']:.2f} s", "1"])
    return table([f"{found['tokens']:,} tokens", "", "one block", "to the floor (quartiles)"], rows)


def smaller() -> str:
    """Perplexity of a language model without channels, heads or layers, nothing trained, and the part that is gone."""
    lines = [*read("depth")["lines"], *read("width")["lines"]]
    dense = next(line for line in lines if line["way"] == "dense")
    found: dict[str, dict[float, str]] = {}
    for line in lines:
        if line["way"] != "dense":
            gone = line.get("gone", line.get("sparsity"))
            found.setdefault(line["way"], {})[float(line["budget"])] = f"{line['perplexity']:.2f} ({100 * gone:.1f} %)"
    columns = sorted({b for of in found.values() for b in of})
    head = [f"perplexity (dense {dense['perplexity']:.2f})", *(f"{100 * b:g} %" for b in columns)]
    return table(head, [[way, *(of.get(b, "") for b in columns)] for way, of in found.items()])


def searched() -> str:
    """What a search over levels finds, and how well that heals."""
    rows = []
    for line in read("language_search")["lines"]:
        rows.append(
            [line["way"], f"{100 * line['sparsity']:.1f} %", f"{line['perplexity']:.2f}", f"{line['healed']:.2f}"]
        )
    return table(["way", "gone", "perplexity", "after 60 steps of AdamW"], rows)


def activations() -> str:
    """Perplexity over the share of inputs that are skipped."""
    rows = []
    for line in read("language_zeros")["lines"]:
        if line["what"] == "scap":
            skipped = f"{100 * line['skipped']:.1f} %"
            rows.append([f"{100 * line['share']:g} %", line["mode"], skipped, f"{line['perplexity']:.2f}"])
    return table(["inputs that are zero", "centre", "multiply-adds skipped", "perplexity (dense 4.25)"], rows)


def exchanged() -> str:
    """Wanda at one half, and after its weights have changed places."""
    lines = {(line["what"], line.get("steps")): line for line in read("language_zeros")["lines"]}
    start, end, blocks = lines["icbs", 0], lines["icbs", 16], lines["wanda, block by block", None]
    rows = [
        ["Wanda, block by block", f"{blocks['perplexity']:.2f}"],
        ["Wanda at once, where iCBS starts", f"{start['perplexity']:.2f}"],
    ]
    rows.append([f"iCBS, 16 steps, {end['moved']:,} weights exchanged", f"{end['perplexity']:.2f}"])
    return table(["50 %", "perplexity (dense 4.25)"], rows)


def transfer() -> str:
    """Accuracy after pruning while another task is learned."""
    found = read("transfer")["found"]
    sparsities = list(next(iter(found.values())))
    rows = [[name, *(mean([r["test"] for r in cells[s]]) for s in sparsities)] for name, cells in found.items()]
    seeds = len(next(iter(found.values()))[sparsities[0]])
    return table([f"{seeds} seeds", *(f"{100 * float(s):g} %" for s in sparsities)], rows)


def main() -> None:
    stale = []
    for page in PAGES:
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
