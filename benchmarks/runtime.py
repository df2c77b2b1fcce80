"""Latency of sparse networks: our runtime beside PyTorch, torch.compile, ONNX Runtime, OpenVINO and DeepSparse, in one run.

    python benchmarks/runtime.py --core 1 --deepsparse /path/to/python --data ../shared/data    measure all; resumable
    python benchmarks/runtime.py --roofline --core 1      our layers beside what the machine allows
    python benchmarks/runtime.py --markdown --picture     docs/performance.md and docs/images from the results; measures nothing

VGG16 and ResNet-20, float32, norms folded, random masks with Erdős–Rényi-kernel densities. Every engine is a process of its
own, held to the same cores and set up for latency (src/resprout/deploy/rivals.py); they take turns in shuffled order, round
after round, each with its input where it likes it. Ratios are taken within a round, and their median over the rounds is given.
Before a cell is timed, every engine's output must be that of PyTorch to 1e-3.
"""

import argparse
import importlib.util
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _pages
import numpy as np
from _engines import EngineError, Worker

from resprout.deploy.timing import processor

DENSE = ("eager", "compile", "onnxruntime", "openvino")
ENGINES = ("ours", *DENSE, "deepsparse")
TURN = 0.03  # seconds that an engine's turn should last
ROUNDS = (7, 60)  # at least, at most


def machine() -> dict[str, object]:
    """What these figures were measured on."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


class Matrix:
    """The workers, kept from cell to cell, and the folder of networks that they read."""

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args, self.scratch = args, scratch
        self.workers: dict[tuple[str, int], Worker] = {}

    def networks(self, net: str, sparsity: float) -> Path:
        """The folder of a network, made if need be, in a process of its own so that this one stays small."""
        folder = self.scratch / f"{net}-{sparsity}"
        if not folder.exists():
            data = None if self.args.data is None else str(self.args.data.resolve())
            given = [str(folder), net, sparsity, self.args.batch, data]
            code = (
                "import json, sys, pathlib; from _networks import prepare; f, n, s, b, d = json.loads(sys.argv[1]);"
                "prepare(pathlib.Path(f), n, s, b, d and pathlib.Path(d))"
            )
            here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            subprocess.run(
                [sys.executable, "-c", code, json.dumps(given)], check=True, env=os.environ | {"PYTHONPATH": here}
            )
        return folder

    def cell(self, net: str, sparsity: float, batch: int, threads: int) -> dict[str, Any]:
        """All engines on one network, batch size and number of threads."""
        folder, found = self.networks(net, sparsity), {}
        expected = np.load(folder / f"y{batch}.npy")
        calls: dict[str, int] = {}
        for engine in self.args.engines:
            worker = self._worker(engine, threads)
            said = worker.ask(load=str(folder), net=net, batch=batch)
            error = float(np.abs(np.array(said["output"]) - expected).max())
            if not error <= 1e-3 * max(1.0, float(np.abs(expected).max())):
                raise EngineError(f"{engine} differs from PyTorch by {error:.2g} on {net} at {sparsity}, batch {batch}")
            found[engine] = {"version": said["version"], "error": float(f"{error:.2g}")}
            once = min(worker.ask(calls=5)["us"]) / 1e6
            calls[engine] = max(3, min(300, round(TURN / once)))
        turns, disturbed = self._turns(calls, threads)
        for engine, us in turns.items():
            low, middle, high = spread(us)
            found[engine] |= {"us": middle, "low": low, "high": high, "calls": calls[engine]}
        facts = {"net": net, "sparsity": sparsity, "batch": batch, "threads": threads}
        facts |= {"rounds": len(turns[self.args.engines[0]]), "disturbed": disturbed}
        return facts | {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "engines": found, "ratios": ratios(turns)}

    def _turns(self, calls: dict[str, int], threads: int) -> tuple[dict[str, list[float]], float]:
        """Engine -> the median microseconds of each of its turns; and in which share of them it lost its core for a while.

        That hits long calls and spares short ones, so where the share is large, ratios flatter the faster engine.
        """
        turns: dict[str, list[float]] = {engine: [] for engine in calls}
        lost = 0
        order, began = random.Random(0), time.monotonic()
        for round_ in range(ROUNDS[1]):
            if round_ >= ROUNDS[0] and time.monotonic() - began > self.args.seconds:
                break
            for engine in order.sample(list(calls), len(calls)):
                said = self.workers[engine, threads].ask(calls=calls[engine])
                turns[engine].append(statistics.median(said["us"]))
                lost += said["pushed_aside"] > 2
        return turns, round(lost / sum(map(len, turns.values())), 3)

    def _worker(self, engine: str, threads: int) -> Worker:
        for key in [k for k in self.workers if k[1] != threads]:
            self.workers.pop(key).close()
        if (engine, threads) not in self.workers:
            cores = sorted(os.sched_getaffinity(0) | {self.args.core})
            cores = [self.args.core, *(c for c in cores if c != self.args.core)][:threads]
            if len(cores) < threads:
                raise EngineError(f"{threads} threads need as many cores; this process may use {cores}")
            python = str(self.args.deepsparse) if engine == "deepsparse" else sys.executable
            log = self.scratch / f"{engine}-{threads}.log"
            self.workers[engine, threads] = Worker(engine, threads, cores, python, log)
        return self.workers[engine, threads]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def spread(values: list[float]) -> tuple[float, float, float]:
    """The quartiles, to four digits."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return tuple(float(f"{v:.4g}") for v in (low, middle, high))  # pyright: ignore


def ratios(turns: dict[str, list[float]]) -> dict[str, list[float]]:
    """Engine -> quartiles over the rounds of its time over ours in the same round."""
    ours = turns.get("ours")
    if ours is None:
        return {}
    return {e: list(spread([a / b for a, b in zip(us, ours, strict=True)])) for e, us in turns.items() if e != "ours"}


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["net"], cell["sparsity"], cell["batch"], cell["threads"]


def read(file: Path) -> dict[str, Any]:
    """The results so far; none if there is no file, or only one of another machine."""
    fresh = {"machine": machine(), "cells": []}
    found = json.loads(file.read_text()) if file.exists() else fresh
    if found["machine"] != fresh["machine"]:
        print(f"{file} was measured on {found['machine']}, which this is not: it is begun anew")
        return fresh
    return found


def write(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


def measure(args: argparse.Namespace) -> None:
    """Measure all cells that are asked for and not yet there (with these weights and kernels), and write after each."""
    from resprout.deploy.runtime import build

    found, scratch = read(args.out), Path(tempfile.mkdtemp(prefix="resprout-runtime-"))
    wanted = list(itertools.product(args.threads, args.net, args.sparsity, args.batch))  # few restarts of workers
    matrix = Matrix(args, scratch)
    ours = {"weights": "random" if args.data is None else "trained", "kernels": build.fingerprint()}
    try:
        for number, (threads, net, sparsity, batch) in enumerate(wanted, 1):
            there = [c for c in found["cells"] if key(c) == (net, sparsity, batch, threads)]
            same = [c for c in there if {k: c[k] for k in ours} == ours]
            if any(set(args.engines) <= set(c["engines"]) for c in same) and not args.again:
                continue
            began = time.monotonic()
            cell = matrix.cell(net, sparsity, batch, threads) | ours | {"command": command()}
            found["cells"] = sorted([c for c in found["cells"] if c not in there] + [cell], key=key)
            write(args.out, found)
            print(f"[{number}/{len(wanted)}, {time.monotonic() - began:.0f} s] {_pages.line(cell)}", flush=True)
    except EngineError as error:
        kept = Path(tempfile.gettempdir()) / "resprout-runtime-logs"
        shutil.copytree(scratch, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("vgg*", "resnet*"))
        sys.exit(f"error: {error}; what is finished is in {args.out}, start again to resume; logs copied to {kept}")
    finally:
        matrix.close()
        shutil.rmtree(scratch)


def installed(engine: str) -> bool:
    return engine not in ("onnxruntime", "openvino") or importlib.util.find_spec(engine) is not None


def command() -> str:
    return " ".join(["python", *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--net", nargs="+", default=["vgg16", "resnet20"], choices=["vgg16", "resnet20"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: all that are installed")
    parser.add_argument("--deepsparse", type=Path, help="a Python that has DeepSparse (it needs numpy<2)")
    parser.add_argument("--data", type=Path, help="folder of trained weights and CIFAR-10; default random weights")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core of one thread")
    parser.add_argument("--seconds", type=float, default=12, help="of timing per cell, but seven rounds at least")
    parser.add_argument("--again", action="store_true", help="also cells that are in the results already")
    parser.add_argument("--roofline", action="store_true", help="our layers beside what this machine allows")
    parser.add_argument(
        "--markdown", action="store_true", help="write the tables of docs/performance.md from the results"
    )
    parser.add_argument("--picture", action="store_true", help="draw the results in docs/images")
    parser.add_argument("--out", type=Path, default=here / "results" / "runtime.json")
    args = parser.parse_args()
    docs = here.parent / "docs"
    if args.markdown or args.picture:
        results = read_any(args.out)
        if args.markdown:
            _pages.markdown(results, docs / "performance.md")
        if args.picture:
            _pages.pictures(results, docs / "images")
        return
    if args.roofline:
        import _roofline

        found = read(args.out)
        write(args.out, found | {"roofline": _roofline.measure(args) | {"command": command()}})
        return
    args.engines = args.engines or [e for e in ENGINES if (args.deepsparse if e == "deepsparse" else installed(e))]
    if "deepsparse" in args.engines and not args.deepsparse:
        parser.error("DeepSparse needs an environment of its own: name its Python with --deepsparse")
    measure(args)


def read_any(file: Path) -> dict[str, Any]:
    """Results of whatever machine.

    Raises:
        SystemExit: there are none.
    """
    if not file.exists():
        sys.exit(f"no {file}: measure first")
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
