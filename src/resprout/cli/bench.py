"""`resprout bench`: how fast a saved network runs here, in our runtime and in dense engines.

For figures to publish, use benchmarks/runtime.py: there each engine has a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..core.errors import CheckpointError, ResproutError, nearest
from ..deploy import encoding, interpret, rivals
from ..deploy.encoding import Archive
from ..deploy.export.onnx import to_onnx
from ..deploy.program import Program
from ..deploy.runtime import Runtime
from .flags import columns, console, plain_errors
from .timing import write_table

OURS = "resprout"
RIVALS = {"torch": "PyTorch, dense", "onnxruntime": "ONNX Runtime, dense", "openvino": "OpenVINO, dense"}
TURN = 0.05  # seconds that an engine's turn should last
PAUSE = 0.05  # seconds between turns, in which the last engine's threads fall asleep
ROUNDS = 5  # at least
RUNS = 51  # of each layer


@plain_errors
def bench(
    file: Annotated[
        Path | None, typer.Argument(help="A file of `resprout fit`, or of rs.save with an example.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a batch.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each engine.", min=1)] = 1,
    against: Annotated[
        str, typer.Option(help="torch, onnxruntime, openvino, none, or all of those that are installed.")
    ] = "all",
    layers: Annotated[bool, typer.Option("--layers", help="Also a row for every layer.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to measure; five rounds at least.")] = 3.0,
    table: Annotated[
        Path | None, typer.Option(help="Instead: write the times of --model's layers, for `resprout fit --table`.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="With --table: the name of its function in resprout.models.")
    ] = "digits_cnn",
    task: Annotated[str, typer.Option(help="With --table: digits or cifar10, for the shape of inputs.")] = "digits",
    data: Annotated[Path | None, typer.Option(help="With --table: folder of the task's data.")] = None,
) -> None:
    """Measure how fast a saved network runs on this machine, beside engines that do not use its zeros."""
    if (file is None) == (table is None):
        raise ResproutError("name a FILE to measure it, or --table to write the times of a network's layers (not both)")
    if table is not None:
        write_table(table, model, task, data, threads)
    if file is not None:
        _file(file, batch, threads, against, layers, seconds)


def _file(file: Path, batch: int, threads: int, against: str, layers: bool, seconds: float) -> None:
    if against not in ("all", "none", *RIVALS):
        raise nearest(against, ("all", "none", *RIVALS), "--against")
    archive, page = encoding.read(file), console()
    program = archive.program
    if program is None:
        raise CheckpointError(
            f"{file} says which weights there are, not how they are used: save it with example= (fit does), and bench that"
        )
    _facts(file, archive, program)
    x = np.random.default_rng(0).standard_normal((batch, *program.input), dtype=np.float32)
    with tempfile.TemporaryDirectory() as scratch, _threads(threads), _bar() as progress:
        bar = progress.add_task("packing the weights for this processor", total=None)
        runtime = Runtime(file, threads=threads)
        calls: dict[str, rivals.Call] = {OURS: functools.partial(runtime, x)}
        for name in RIVALS if against == "all" else [against] if against != "none" else []:
            progress.update(bar, description=f"setting up {RIVALS[name]}")
            call = _rival(name, archive, program, x, threads, Path(scratch), optional=against == "all")
            if call is not None:
                calls[RIVALS[name]] = call
        outputs = {name: call().copy() for name, call in calls.items()}
        progress.update(bar, description="measuring", total=seconds)
        took = take_turns(calls, seconds, lambda spent: progress.update(bar, completed=spent))
    page.print(_times(took, outputs, batch))
    if layers:
        page.print(_layers(runtime, batch))


def take_turns(
    calls: Mapping[str, Callable[[], object]], seconds: float, report: Callable[[float], None] = lambda spent: None
) -> dict[str, list[float]]:
    """Return name -> the median microseconds of a call in each round; in a round every engine has its turn.

    Args:
        calls: name -> what to time.
        seconds: in all, but five rounds at least.
        report: told the seconds spent, after every turn.
    """
    count = {name: max(1, min(500, round(TURN / _once(call)))) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    began, turn = time.perf_counter(), 0
    while turn < ROUNDS or time.perf_counter() - began < seconds:
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()  # its data come back to the caches
            found[name].append(statistics.median(1e6 * _once(call) for _ in range(count[name])))
            report(time.perf_counter() - began)
        turn += 1
    return found


def _once(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _rival(
    name: str, archive: Archive, program: Program, x: rivals.Floats, threads: int, scratch: Path, optional: bool
) -> rivals.Call | None:
    """A dense engine with the network of the file; None where it is optional and not installed."""
    if name == "torch":
        return rivals.eager(functools.partial(interpret.run, program, archive.tensors()), x)
    try:
        to_onnx(scratch / "net.onnx", program, archive.tensors())
        make = rivals.onnx_runtime if name == "onnxruntime" else rivals.openvino
        return make(scratch / "net.onnx", x, threads)
    except ResproutError as error:
        if not (optional and isinstance(error.__cause__, ImportError)):
            raise
        console(stderr=True).print(f"without {RIVALS[name]}: {error}", markup=False)
        return None


def _facts(file: Path, archive: Archive, program: Program) -> None:
    """What is measured: bytes, weights and multiply-adds."""
    page, macs, tensors = console(), program.macs(), archive.tensors()
    dense = sum(m * tensors[n].numel() for n, m in macs.items())
    sparse = sum(m * int(torch.count_nonzero(tensors[n])) for n, m in macs.items())
    total, alive = (sum(getattr(w, what) for w in archive.weights.values()) for what in ("size", "alive"))
    page.print(f"{file}  {file.stat().st_size:,} bytes, {archive.values} values", style="bold", markup=False)
    page.print(f"{alive:,} of {total:,} weights alive ({100 * (1 - alive / max(total, 1)):.2f} % sparse)")
    page.print(f"multiply-adds per sample: {dense:,} dense, {sparse:,} of weights alive")


def _times(took: dict[str, list[float]], outputs: dict[str, rivals.Floats], batch: int) -> Table:
    """A row per engine. The ratio is taken within each round, then its median."""
    table = columns("engine", "ms", "quartiles", "samples/s", f"time / {OURS}", "largest difference")
    for name, us in took.items():
        low, middle, high = statistics.quantiles(us, n=4, method="inclusive")
        ratio = statistics.median(a / b for a, b in zip(us, took[OURS], strict=True))
        table.add_row(
            name,
            f"{middle / 1e3:.4g}",
            f"{low / 1e3:.4g}–{high / 1e3:.4g}",
            f"{1e6 * batch / middle:,.0f}",
            "" if name == OURS else f"{ratio:.2f}",
            "" if name == OURS else f"{np.abs(outputs[name] - outputs[OURS]).max():.1g}",
        )
    return table


def _layers(runtime: Runtime, batch: int) -> Table:
    """A row per operation, timed by itself over and over; times are those of one image on one thread."""
    table = columns("layer", "alive", "µs", "GFLOP/s", "how")
    for layer in runtime.layers(RUNS, batch=batch > 1):
        speed = layer.flops / layer.microseconds / 1e3 if layer.microseconds else 0.0
        weighted = [f"{layer.nonzeros:,}", f"{speed:.1f}"] if layer.variant else ["", ""]
        table.add_row(layer.name, weighted[0], f"{layer.microseconds:.2f}", weighted[1], layer.variant)
    return table


def _bar() -> Progress:
    page = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(32), TimeElapsedColumn())
    return Progress(*columns, console=page, transient=True, disable=not page.is_terminal)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch's threads, and back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
