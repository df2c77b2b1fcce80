"""Selection: a global cut of a VGG16-shaped set of weights, beside torch.nn.utils.prune in the same run.

    python benchmarks/selection.py [--billion] [--threads 1] [--out benchmarks/results/select.json]

Times are medians, the two taking turns. Peak memory is what the resident set of a fresh process gains at most over what
it holds just before the call (VmHWM, reset through /proc/self/clear_refs), masks included. The floor is one read of the
weights: a sum over them. `torch` also stores masked copies of the weights as parameters, which is part of what it does.
"""

import argparse
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

from resprout.core.select import Elementwise, greedy, top
from resprout.deploy.timing import processor
from resprout.models import build


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}


def ours(model: nn.Module, sparsity: float) -> None:
    scores = {n: Elementwise(torch.abs, (w,)) for n, w in weights(model).items()}
    total = sum(w.numel() for w in weights(model).values())
    top(scores, total - round(sparsity * total))


def priced(model: nn.Module, sparsity: float) -> None:
    """Like `ours`, where a weight of every fifth tensor has the same price: what `sparsity` leaves of all the money."""
    scores = {n: Elementwise(torch.abs, (w,)) for n, w in weights(model).items()}
    prices = {n: 1.0 + i % 5 for i, n in enumerate(scores)}
    greedy(scores, prices, (1 - sparsity) * sum(prices[n] * s.numel() for n, s in scores.items()))


def theirs(model: nn.Module, sparsity: float) -> None:
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=sparsity)


def read(model: nn.Module, sparsity: float) -> None:
    for w in weights(model).values():
        float(w.sum())


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def beside(sparsity: float, repeats: int, slow_repeats: int) -> dict[str, float]:
    """Return the medians in milliseconds; torch gets a fresh model each time, for it prunes on top of itself."""
    torch.manual_seed(0)
    model = build("vgg16")
    times: dict[str, list[float]] = {"ours": [], "priced": [], "torch": [], "read": []}
    ours(model, sparsity)
    for i in range(repeats):
        times["ours"].append(seconds(functools.partial(ours, model, sparsity)))
        times["priced"].append(seconds(functools.partial(priced, model, sparsity)))
        times["read"].append(seconds(functools.partial(read, model, sparsity)))
        if i < slow_repeats:
            times["torch"].append(seconds(functools.partial(theirs, build("vgg16"), sparsity)))
    median = {n: 1e3 * statistics.median(t) for n, t in times.items()}
    return {
        "sparsity": sparsity,
        "ours_ms": round(median["ours"], 2),
        "ours_ms_best": round(1e3 * min(times["ours"]), 2),
        "with_prices_ms": round(median["priced"], 2),
        "with_prices_times": round(median["priced"] / median["ours"], 2),
        "torch_ms": round(median["torch"], 1),
        "times_faster": round(median["torch"] / median["ours"], 1),
        "one_read_ms": round(median["read"], 2),
        "reads": round(median["ours"] / median["read"], 1),
    }


def high_water(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith(field))


def peak(which: str, sparsity: float) -> float:
    """Return the extra bytes per weight of one call in this process."""
    model = build("vgg16")
    run = {"ours": ours, "torch": theirs}[which]
    run(nn.Sequential(nn.Linear(300, 300)), sparsity)  # what is allocated once and for all
    total = sum(w.numel() for w in weights(model).values())
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water("VmRSS")
    run(model, sparsity)
    return (high_water("VmHWM") - before) / total


def extra_bytes(which: str, sparsity: float, threads: int) -> float:
    command = [sys.executable, __file__, "--peak", which, "--sparsity", str(sparsity), "--threads", str(threads)]
    return round(float(subprocess.run(command, capture_output=True, check=True, text=True).stdout), 2)


def linear(sizes: list[int]) -> list[dict[str, float]]:
    rows = []
    for size in sizes:
        scores = {"w": Elementwise(torch.abs, (torch.randn(size, generator=torch.Generator().manual_seed(0)),))}
        best = min(seconds(lambda scores=scores, size=size: top(scores, size // 100) and None) for _ in range(3))
        rows.append({"weights": size, "ms": round(1e3 * best, 1), "ns_per_weight": round(1e9 * best / size, 3)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--billion", action="store_true", help="also 10^9 weights, which needs 6 GB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--peak", choices=["ours", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "select.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args.sparsity))
        return
    result: dict[str, object] = {
        "machine": f"{processor()}, {platform.system()} {platform.machine()}",
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "weights": 14_715_584,
    }
    result["vgg16"] = [beside(s, args.repeats, 3) for s in (0.5, 0.9, args.sparsity)]
    print(json.dumps(result["vgg16"], indent=1), flush=True)
    result["extra_bytes_per_weight"] = {
        which: {str(s): extra_bytes(which, s, args.threads) for s in (0.5, 0.99)} for which in ("ours", "torch")
    }
    print(result["extra_bytes_per_weight"], flush=True)
    result["linear"] = linear([10**7, 10**8] + [10**9] * args.billion)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
