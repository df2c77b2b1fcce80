"""How long each layer takes on this machine with so many weights alive: a table, measured with the runtime.

Random masks at several densities are run; between them times are interpolated. A table is kept in the cache, with the
machine's identity, and can be written to a file and used elsewhere: times for a device are measured on that device.

What this file does not do: limits (`latency.py`).
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CheckpointError, ResproutError
from ..core.store import write
from .program import Conv, Linear, Program
from .runtime import Runtime, build

DENSITIES = (0.002, 0.01, 0.03, 0.08, 0.2, 0.5, 1.0)
RUNS = 30  # of each layer; the median counts


@dataclass(frozen=True)
class Table:
    """Microseconds for one sample.

    Attributes:
        machine: where it was measured: processor, instruction set.
        threads: of the runtime.
        program: digest of the operations that it is about.
        layers: name of a weight -> (weights alive, microseconds), ascending.
        rest: of everything that has no weights, and of the call.
    """

    machine: str
    threads: int
    program: str
    layers: Mapping[str, tuple[tuple[int, float], ...]]
    rest: float

    def microseconds(self, counts: Mapping[str, int]) -> float:
        """Return the time with so many weights alive in each layer; layers that are not named are dense."""
        return self.rest + sum(self._layer(n, counts.get(n, rows[-1][0])) for n, rows in self.layers.items())

    def _layer(self, name: str, alive: float) -> float:
        alive_at, took = zip(*self.layers[name], strict=True)
        return float(np.interp(alive, alive_at, np.maximum.accumulate(took)))  # more weights never take less

    def slope(self, name: str, low: float = 0.01, high: float = 0.2) -> float:
        """Return the microseconds of one more weight, over the densities that budgets lead to."""
        size = self.layers[name][-1][0]
        few, many = max(1.0, low * size), max(2.0, high * size)
        return (self._layer(name, many) - self._layer(name, few)) / (many - few)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        facts = {"format": "resprout-table-1", **{f: getattr(self, f) for f in self.__dataclass_fields__}}
        write(Path(path), json.dumps(facts, indent=1).encode())

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is no table, or damaged.
        """
        try:
            facts = json.loads(Path(path).read_text())
            if facts.pop("format") != "resprout-table-1":
                raise ValueError("another format")
            layers = {str(n): tuple((int(k), float(t)) for k, t in rows) for n, rows in facts.pop("layers").items()}
            return cls(layers=layers, **facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} cannot be read as a table of times ({error!r}); make it with: resprout bench --table {path}"
            ) from error


def processor() -> str:
    """Return the name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    rows = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((row.partition(":")[2].strip() for row in rows if row.startswith(("model name", "Model"))), "")
    return name or platform.processor() or platform.machine()


def machine(isa: str) -> str:
    """Return what times depend on: the processor, and the instruction set that the runtime uses."""
    return f"{processor()}, {isa}"


def digest(program: Program) -> str:
    """Return what tells programs apart."""
    return hashlib.sha256(json.dumps(program.to_json()).encode()).hexdigest()[:16]


def took(runtime: Runtime, seconds: float = 0.5) -> float:
    """Return the median microseconds of whole calls with one sample."""
    x = np.random.default_rng(0).standard_normal((1, *runtime.program.input), dtype=np.float32)
    for _ in range(5):
        runtime(x)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        began = time.perf_counter()
        runtime(x)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def thinned(program: Program, tensors: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Return the tensors with that part of every weight alive, at random places."""
    generator, thin = torch.Generator().manual_seed(0), dict(tensors)
    for name in program.macs():
        size = tensors[name].numel()
        flat = torch.zeros(size)
        flat[torch.randperm(size, generator=generator)[: max(1, round(density * size))]] = 0.1
        thin[name] = flat.view(tensors[name].shape)
    return thin


def measure(program: Program, tensors: Mapping[str, Tensor], threads: int = 1) -> Table:
    """Return the table of this machine.

    Raises:
        ResproutError: the runtime has no compiled kernels here, or the program has no layer.
    """
    names = [op.weight for op in program.ops if isinstance(op, Conv | Linear)]
    found: dict[str, dict[int, float]] = {n: {} for n in names}
    rests, where = [], ""
    for density in DENSITIES:
        runtime = Runtime((program, thinned(program, tensors, density)), threads)
        layers = runtime.layers(RUNS)
        if not names or not layers:
            raise ResproutError("times per layer need layers with weights, and the compiled runtime (gcc or clang)")
        where = machine(runtime.isa)
        weighted = [layer for layer in layers if layer.name in found]
        for name in names:
            own = [layer for layer in weighted if layer.name == name]
            size = tensors[name].numel()
            found[name][max(1, round(density * size))] = sum(layer.microseconds for layer in own)
        rests.append(took(runtime) - sum(layer.microseconds for layer in weighted))
    rows = {n: tuple(sorted(found[n].items())) for n in names}
    return Table(where, threads, digest(program), rows, max(0.0, statistics.median(rests)))


def table(program: Program, tensors: Mapping[str, Tensor], threads: int = 1) -> Table:
    """Return the table of this machine, from the cache if it was measured before."""
    where = machine(Runtime((program, tensors), threads, trials=0).isa)
    known = (where, threads, digest(program), DENSITIES, build.fingerprint())
    path = build.cache() / f"times-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}.json"
    if path.exists():
        return Table.read(path)
    fresh = measure(program, tensors, threads)
    fresh.save(path)
    return fresh
