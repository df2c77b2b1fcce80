"""Methods that cut once: ResNet-20 on CIFAR-10, nothing trained but the statistics of norms; a line for each baseline.

Its validation images were seen in training: compare rows, do not quote them.

    python benchmarks/one_cut.py rd-prune --data ../shared/data
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from _cut import accuracy
from torch import nn

import resprout as rs
from resprout import find
from resprout.core.granularity import Units
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import chooser
from resprout.methods.allocate.rate_distortion import RateDistortion
from resprout.methods.search.distortion import Distortion

LEVELS = (0.0, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)


def resnet(args: argparse.Namespace) -> tuple[nn.Module, rs.Task, list]:
    """ResNet-20 and training batches."""
    model = find.network("resnet20", args.data / "cifar10-resnet" / "resnet20.safetensors")
    task = find.task("cifar10", args.data / "cifar10", "resnet20")
    return model.eval(), task, list(islice(task.batches("train", seed=1), 1))


def rd_prune(args: argparse.Namespace) -> None:
    """ResNet-20, one cut, nothing trained but the statistics of norms; and whether distortions add up."""
    model, task, _ = resnet(args)
    run = Run(model, task)
    found = Distortion(LEVELS, batches=1)(run)
    tables = {n: tuple(row) for n, row in found["tables"].items()}
    own = RateDistortion(LEVELS, tables)
    probe = Probe(model, run.masks)
    for sparsity in (0.8, 0.9):
        for allocate in ("uniform", "global", "lamp", own):
            method = find.method("allocate", allocate) if isinstance(allocate, str) else allocate
            masks = chooser(probe, find.method("score", "magnitude"), method, 1)(
                round((1 - sparsity) * run.masks.total)
            )  # pyright: ignore
            name = allocate if isinstance(allocate, str) else "rate_distortion"
            print(f"{sparsity:.0%} {name:16} {100 * accuracy(model, task, masks):5.1f}", flush=True)


def lrp_prune(args: argparse.Namespace) -> None:
    """ResNet-20 to 70 % of its multiply-adds, one cut, on one batch of 128 training images."""
    model, task, data = resnet(args)
    structure, target = rs.trace(model, data[0][0][:1]), rs.Target(rs.lower(model, data[0][0][:1]))
    dense = rs.Masks.dense(model)
    budget = rs.Macs(round(0.7 * rs.Macs(1).on(target).cost(model, dense))).on(target)
    probe = Probe(model, dense, data, task.loss, model.state_dict())
    probe.groups = structure.groups
    total = Units().units(dense, structure.groups).total
    for score in ("magnitude", "taylor_channel(p=1)", "lrp", "oba"):
        choose = chooser(
            probe,
            find.method("score", score),
            find.method("allocate", "global"),
            1,
            budget.prices(model, dense),
            Units(),
        )  # pyright: ignore
        masks = budget.keep(model, choose, len(structure.groups), total)
        print(f"{score:20} {100 * accuracy(model, task, masks):5.1f}", flush=True)


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", choices=["rd-prune", "lrp-prune"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"rd-prune": rd_prune, "lrp-prune": lrp_prune}[args.key](args)


if __name__ == "__main__":
    main()
