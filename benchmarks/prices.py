"""Whether prices help: a trained ResNet-20 is cut once, without training, to the same cost with and without them.

    python benchmarks/prices.py --data ../shared/data

A budget in bytes has no prices of its own; here they are the bits that one more weight of each tensor takes in the file,
at the density that the cut without prices left.

Norm statistics are measured anew on eight training batches. Validation accuracy on the last 5,000 training images, which
the pretrained network has seen: compare rows, do not quote them.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from _cut import accuracy

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.steps import chooser
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.lamp import Lamp
from resprout.methods.score.magnitude import Magnitude

BUDGETS = (
    ("12M macs", "fp16"),
    ("8M macs", "fp16"),
    ("6M macs", "fp16"),
    ("32KiB", "int8"),
    ("48KiB", "int8"),
    ("48KiB", "fp16"),
)
BITS = {"int8": 7.0, "fp16": 16.0}  # of a value; integers are entropy-coded


def marginal_bits(masks: rs.Masks, values: str) -> dict[str, float]:
    """The derivative of places and values in bits by the number alive."""
    found = {}
    for name, alive in masks.counts.items():
        p = min(max(alive / masks.sizes[name], 1e-6), 1 - 1e-6)
        found[name] = max(1.0, BITS[values] + math.log2((1 - p) / p))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and cifar10-resnet/")
    args = parser.parse_args()
    model = find.network("resnet20", args.data / "cifar10-resnet" / "resnet20.safetensors")
    task = find.task("cifar10", args.data / "cifar10", "resnet20")
    traced = rs.lower(model, next(iter(task.batches("train"))))
    dense, probe = rs.Masks.dense(model), rs.Probe(model)
    for text, values in BUDGETS:
        budget = Budget.parse(text).on(rs.Target(traced, values))
        for allocate in (Lamp(), Global()):
            prices: Mapping[str, float] | None = None
            for how in ("without", "with prices"):
                masks = budget.keep(model, chooser(probe, Magnitude(), allocate, 0, prices), 0, dense.total)
                took = budget.text(budget.cost(model, masks))
                words = f"{text:8} {values} {type(allocate).__name__:6} {how:11} {masks.alive:7,} alive, {took:13}"
                print(f"{words} validation {100 * accuracy(model, task, masks):.2f} %", flush=True)
                prices = budget.prices(model, masks) or marginal_bits(masks, values)


if __name__ == "__main__":
    main()
