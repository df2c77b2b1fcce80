"""One inference engine in a process of its own: the worker of runtime.py, and its end of the pipe.

A worker answers lines of JSON on standard input with lines of JSON: {"load": ...} makes it read a network, {"calls": n} makes
it time n calls. Its own process keeps an engine's threads and settings from the others, and lets DeepSparse live in the Python
that it needs: as a script, this file imports nothing but the engine asked for. A worker that waits is stopped, or its threads
might go on spinning for a while in hope of work (ONNX Runtime's do, 30 ms) and take a core from the next engine.
"""

import argparse
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
PATIENCE = 300  # seconds for one answer; compiling takes the longest


# -- in the worker -------------------------------------------------------------------------------------------------


def load(engine: str, folder: Path, net: str, batch: int, threads: int) -> Call:
    """Return a call that computes the batch in `folder` with the network there."""
    import numpy as np

    x, onnx = np.load(folder / f"x{batch}.npy"), folder / "net.onnx"
    if engine == "deepsparse":
        return _deepsparse(onnx, x, threads)
    import torch

    from resprout.deploy import rivals

    torch.set_num_threads(threads)
    match engine:
        case "ours":
            from resprout.deploy.runtime import Runtime

            runtime = Runtime.of(network(folder, net), torch.from_numpy(x[:1]), threads)
            return lambda: runtime(x)
        case "eager":
            return rivals.eager(_folded(folder, net), x)
        case "compile":
            return rivals.compiled(_folded(folder, net), x)
        case "onnxruntime":
            return rivals.onnx_runtime(onnx, x, threads)
        case "openvino":
            return rivals.openvino(onnx, x, threads)
    raise ValueError(f"no engine {engine!r}")


def _deepsparse(onnx: Path, x: Any, threads: int) -> Call:
    from deepsparse import Engine

    engine = Engine(str(onnx), batch_size=len(x), num_cores=threads, scheduler="single_stream")
    return lambda: engine.run([x], val_inp=False)[0]


def network(folder: Path, net: str) -> Any:
    """Return the network in `folder`, norms not folded."""
    from safetensors.torch import load_file

    from resprout import models

    model = models.build(net)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


def _folded(folder: Path, net: str) -> Any:
    from torch.fx.experimental.optimization import fuse

    return fuse(network(folder, net))


def version(engine: str) -> str:
    module = {"ours": "resprout", "eager": "torch", "compile": "torch"}.get(engine, engine)
    return str(importlib.import_module(module).__version__)


def clock(call: Call, calls: int) -> list[float]:
    """Microseconds of each of `calls` calls, after a few that are not counted."""
    for _ in range(1 + calls // 5):
        call()
    took = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return took


def work(engine: str, threads: int) -> None:
    """Answer until the other end of the pipe closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped process would outlive the benchmark
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    call: Call = tuple
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            call = tuple  # frees the network before
            call = load(engine, Path(asked["load"]), asked["net"], asked["batch"], threads)
            said = {"output": call().tolist(), "version": version(engine)}
        else:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            said = {"us": clock(call, asked["calls"])}
            said["pushed_aside"] = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
        print(json.dumps(said), file=answers, flush=True)


# -- in the benchmark ----------------------------------------------------------------------------------------------


class EngineError(Exception):
    """An engine that ended or did not answer."""


class Worker:
    """An engine's process, held to some cores."""

    def __init__(self, engine: str, threads: int, cores: list[int], python: str, log: Path):
        self.engine, self.log = engine, log
        settings = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [python, __file__, engine, "--threads", str(threads), "--cores", *map(str, cores)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | settings,
        )

    def ask(self, **what: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            EngineError: the process ended, or was silent for too long; with the last it said.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            print(json.dumps(what), file=self.process.stdin, flush=True)
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            line = self.process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise EngineError(f"{self.engine} failed: {last[0]} (all of it in {self.log})")
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cores", type=int, nargs="+", required=True)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, args.cores)
    work(args.engine, args.threads)
