"""What a channel is worth: a trained ResNet is cut once to half its multiply-adds, by every score and several allocations.

No training follows; norm statistics are measured anew on eight training batches. Validation accuracy is on the last 5,000
training images, which the pretrained network has seen: compare rows, do not quote them. Writes benchmarks/results/channels.json.

    python benchmarks/channels.py --data ../shared/data
"""

import argparse
import json
import platform
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from _cut import accuracy

import resprout as rs
from resprout import catalog, find
from resprout.core.granularity import Units
from resprout.core.steps import chooser

SCORES = (
    *("magnitude", "filter_norm", "batchnorm_scale", "geometric_median"),
    *("taylor", "taylor_channel", "saliency", "fisher", "snip"),
    *("activation_mean", "apoz", "attention_map", "variance", "hrank", "obspa", "random"),
)
WAYS = {
    "global": ("global", Units()),
    "global, per multiply-add": ("global", Units(priced=True)),
    "global, normalised (SPA)": ("global", Units(normalise=True)),
    "uniform": ("uniform", Units()),
    "lamp": ("lamp", Units()),
}


def main() -> None:
    """Cut in every way, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and cifar10-resnet/")
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds that may stay")
    parser.add_argument("--batches", type=int, default=4, help="training batches that scores look at")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/channels.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = find.network(args.network, args.data / "cifar10-resnet" / f"{args.network}.safetensors")
    task = find.task("cifar10", args.data / "cifar10", args.network)
    batches = list(islice(task.batches("train", seed=1), args.batches))
    example = batches[0][0][:1]
    structure, target = rs.trace(model, example), rs.Target(rs.lower(model, example))
    dense = rs.Masks.dense(model)
    whole = rs.Macs(1).on(target).cost(model, dense)
    budget = rs.Macs(round(args.share * whole)).on(target)
    probe = rs.Probe(model, dense, batches, task.loss, model.state_dict())
    probe.groups = structure.groups
    total = Units().units(dense, structure.groups).total
    print(
        f"{args.network}: {whole:,.0f} multiply-adds, {total} channels in {len(structure.groups)} groups, to {budget}"
    )
    rows = []
    for score in SCORES:
        for way, (allocate, units) in WAYS.items():
            choose = chooser(
                probe,
                catalog.make("score", score),
                catalog.make("allocate", allocate),
                1,
                budget.prices(model, dense),
                units,
            )
            masks = budget.keep(model, choose, len(structure.groups), total)
            row = {
                "score": score,
                "way": way,
                "channels": units.units(masks, structure.groups).alive,
                "macs": budget.cost(model, masks),
                "validation": accuracy(model, task, masks),
            }
            rows.append(row)
            print(
                f"{score:17} {way:26} {row['channels']:5} channels, {row['macs'] / whole:6.1%} of the multiply-adds, "
                f"validation {row['validation']:6.1%}",
                flush=True,
            )
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.platform(),
    }
    args.results.write_text(json.dumps(facts | {"network": args.network, "table": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
