"""How far each layer of ours is from what this machine allows (the roofline model of Williams, Waterman, Patterson, 2009).

A layer's roof is the lesser of the peak of fused multiply-adds and intensity times bandwidth, where intensity is its useful
operations (two per weight alive, pixel and image) per byte that it must touch at least: packed weights, input and output, once
each. Bandwidth is that of the smallest cache that holds those bytes, as the layer is timed over and over. Peaks are measured.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _engines import clock, network
from _networks import prepare

from resprout.deploy.program import Conv, Linear
from resprout.deploy.runtime import Runtime, native

RUNS = 101  # of each layer
CACHES = {"L1": "LEVEL1_DCACHE", "L2": "LEVEL2_CACHE", "L3": "LEVEL3_CACHE"}


def caches() -> dict[str, int]:
    """Bytes of each level, as the C library knows them."""
    found = {}
    for level, row in CACHES.items():
        said = subprocess.run(["getconf", f"{row}_SIZE"], capture_output=True, text=True, check=True).stdout.strip()
        if not said.isdigit() or not int(said):
            raise SystemExit(f"getconf does not know the size of {level} on this machine: no roofline without it")
        found[level] = int(said)
    return found


def peaks(sizes: dict[str, int]) -> dict[str, float]:
    """What one core does at most, by peaks.c: reads half of each cache, and twice the last one for memory."""
    source = Path(__file__).parent / "peaks.c"
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/peaks"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O3", "-march=native", "-ffp-contract=fast", source, "-o", program], check=True)
        within = [str(n // 2) for n in sizes.values()] + [str(max(2 * max(sizes.values()), 1 << 28))]
        said = subprocess.run([program, *within], capture_output=True, text=True, check=True).stdout
    return {name: float(value) for name, value in map(str.split, said.splitlines())}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All layers of all networks, sparsities and batch sizes, on one thread of `args.core`."""
    os.sched_setaffinity(0, [args.core])
    torch.set_num_threads(1)
    sizes = caches()
    tops = peaks(sizes)
    print(
        "\n".join(f"{name:18} {value:8.1f} {'GFLOP/s' if name[0] == 'f' else 'GB/s'}" for name, value in tops.items())
    )
    runs = []
    for net in args.net:
        for sparsity in args.sparsity:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder), net, sparsity, args.batch, args.data)
                for batch in args.batch:
                    runs.append(layers(Path(folder), net, sparsity, batch, sizes, tops))
                    show(runs[-1])
    return {"peaks": tops, "caches": sizes, "runs": runs}


def layers(
    folder: Path, net: str, sparsity: float, batch: int, sizes: dict[str, int], tops: dict[str, float]
) -> dict[str, Any]:
    """The layers of one network at one batch size; times and operations are those of one image."""
    x = np.load(folder / f"x{batch}.npy")
    runtime = Runtime.of(network(folder, net), torch.from_numpy(x[:1]), 1)
    whole = statistics.median(clock(lambda: runtime(x), RUNS)) / batch
    together = native.library().rs_lanes(runtime.isa.encode()) if batch > 1 else 1  # images in one run of a layer
    shapes = runtime.program.shapes
    about = {op.weight: (k, op) for k, op in enumerate(runtime.program.ops, 1) if isinstance(op, Conv | Linear)}
    rows, others = [], 0.0
    for layer in runtime.layers(RUNS, batch=batch > 1):
        if layer.name not in about:
            others += layer.microseconds
            continue
        k, op = about[layer.name]
        touched = layer.bytes / together + 4 * (prod(shapes[op.inputs[0]]) + prod(shapes[k]))
        level = next((n for n, size in sizes.items() if touched * together <= size), "memory")
        intensity = layer.flops / touched
        roof = min(tops["fma_registers"], intensity * tops[f"read_{level}"])
        speed = layer.flops / layer.microseconds / 1e3
        rows.append(
            {
                "layer": layer.name.removesuffix(".weight"),
                "shape": [*shapes[op.inputs[0]], *shapes[k]],
                "variant": layer.variant,
                "alive": layer.nonzeros,
                "flops": layer.flops,
                "us": digits(layer.microseconds),
                "gflops": digits(speed),
                "intensity": digits(intensity),
                "level": level,
                "roof": digits(roof),
                "share": digits(speed / roof),
                "share_loading": digits(speed / min(roof, tops["fma_L1_crossing"])),
            }
        )
    flops, us = sum(r["flops"] for r in rows), sum(r["us"] for r in rows)
    least = sum(r["flops"] / r["roof"] for r in rows) / 1e3
    facts = {"net": net, "sparsity": sparsity, "batch": batch, "isa": runtime.isa, "layers": rows}
    facts |= {"us": digits(us), "others_us": digits(others), "network_us": digits(whole)}
    facts |= {"gflops": digits(flops / us / 1e3), "share": digits(least / us), "network_share": digits(least / whole)}
    return facts


def digits(value: float) -> float:
    return float(f"{value:.4g}")


def show(run: dict[str, Any]) -> None:
    print(f"\n{run['net']} {100 * run['sparsity']:g} %, batch {run['batch']}, one thread; per image")
    print(f"{'layer':20}{'alive':>9}{'µs':>9}{'GFLOP/s':>9}{'flop/B':>8}{'roof':>7}{'share':>7}{'of loading':>12}  how")
    for r in run["layers"]:
        numbers = f"{r['alive']:9,}{r['us']:9.2f}{r['gflops']:9.1f}{r['intensity']:8.1f}{r['roof']:7.0f}"
        print(f"{r['layer']:20}{numbers}{100 * r['share']:6.0f}%{100 * r['share_loading']:11.0f}%  {r['variant']}")
    print(
        f"all: {run['us']:.1f} µs, {run['gflops']:.1f} GFLOP/s, {100 * run['share']:.0f} % of the roof; operations without "
        f"weights {run['others_us']:.1f} µs; the whole network in one call {run['network_us']:.1f} µs, "
        f"{100 * run['network_share']:.0f} %",
        flush=True,
    )
