"""What `hold` costs: a training step of VGG16 and ResNet-20, dense, held, and with `torch.nn.utils.prune`.

    python benchmarks/hold.py [--steps 40] [--seconds 120] [--batch 128] [--precision bf16|fp32] [--channels-last] [--threads N]

The three take turns within one run, so that whatever else the machine does hits all of them; medians and ratios are
printed and written to `benchmarks/results/hold.json`. A whole step varies by more than `hold` costs, so the cost is
measured by itself too: all that the guard does in a step (one `enforce` after the optimizer, one look before the
forward pass), as a share of the dense step. That share is the figure that we claim.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import resprout as rs
from resprout.deploy.timing import processor
from resprout.models import build

SPARSITY = 0.98


def machine() -> dict[str, object]:
    """What these figures were measured on."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def clock(call: Callable[[], object], repeat: int = 1) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - began) * 1e3 / repeat


def stepper(model: nn.Module, batch: int, bf16: bool, last: bool) -> tuple[Callable[[], object], torch.optim.Optimizer]:
    """One training step of `model` as a call, and its optimizer."""
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    if last:
        x, model = x.contiguous(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """All figures of one network, in milliseconds and ratios."""
    torch.manual_seed(0)
    dense = build(name)
    held, theirs = copy.deepcopy(dense), copy.deepcopy(dense)
    masks = rs.prune(held, SPARSITY, floor=1)
    for path, module in theirs.named_modules():
        if f"{path}.weight" in masks:
            torch_prune.custom_from_mask(module, "weight", masks[f"{path}.weight"])
    options = (args.batch, args.precision == "bf16", args.channels_last)
    steps = {}
    steps["dense"], _ = stepper(dense, *options)
    steps["hold"], optimizer = stepper(held, *options)
    guard = rs.hold(held, masks, optimizer)
    steps["torch.nn.utils.prune"], _ = stepper(theirs, *options)
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    alone: list[float] = []
    began = time.perf_counter()
    for turn in range(args.steps + 1):
        if turn > 3 and time.perf_counter() - began > args.seconds:
            break
        for kind, step in steps.items():
            took = clock(step)
            if turn:  # the first one warms up
                times[kind].append(took)
        alone.append(clock(guard.enforce, 5) + clock(lambda: guard._before_forward(held, ()), 5))
    assert all(not p.detach()[~masks[n]].any() for n, p in held.named_parameters() if n in masks)
    median = {kind: statistics.median(values) for kind, values in times.items()}
    cost = statistics.median(alone)
    return {
        "steps": len(alone) - 1,
        "dense step, ms": round(median["dense"], 2),
        "hold step, ms": round(median["hold"], 2),
        "torch.nn.utils.prune step, ms": round(median["torch.nn.utils.prune"], 2),
        "hold / dense": round(median["hold"] / median["dense"], 4),
        "torch.nn.utils.prune / dense": round(median["torch.nn.utils.prune"] / median["dense"], 4),
        "hold by itself, ms": round(cost, 4),
        "hold by itself / dense step": round(cost / median["dense"], 5),
        "fastest dense step, ms": round(min(times["dense"]), 2),
        "hold by itself / fastest dense step": round(cost / min(times["dense"]), 5),
    }


def main() -> None:
    """Measure both networks, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=120.0, help="per network; three steps are measured anyway")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch likes")
    parser.add_argument("--models", default="resnet20,vgg16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hold.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    setting = {k: v for k, v in vars(args).items() if k in ("steps", "batch", "precision", "channels_last")}
    found: dict[str, object] = {"machine": machine(), "setting": setting | {"sparsity": SPARSITY}}
    for name in args.models.split(","):
        found[name] = measure(name, args)
        print(name)
        for what, value in found[name].items():
            print(f"  {what:40} {value}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
