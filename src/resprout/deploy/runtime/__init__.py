"""The sparse runtime: a saved network, run fast on a CPU, numpy in and numpy out."""

from __future__ import annotations

import copy
import ctypes
import itertools
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.errors import ResproutError, nearest
from .. import encoding, interpret
from ..program import Program
from ..trace import lower as program_of
from . import build, native
from .batch import best_cut, halves
from .lower import Lowered, lower

TRIALS = 1.0  # seconds to spend on trials of kernels, for a network with its first input and for its first large batch
LARGEST = 1 << 31  # floats of all values together


@dataclass(frozen=True)
class Layer:
    """One operation as it runs.

    Attributes:
        name: its weight, or its kind.
        variant: the kernel that was chosen; empty for operations without weights.
        nonzeros: weights alive.
        flops: useful floating-point operations for one image.
        bytes: of the packed weights.
        microseconds: for one image on one thread, measured.
    """

    name: str
    variant: str
    nonzeros: int
    flops: float
    bytes: float
    microseconds: float


class Runtime:
    """A network ready to run.

    Args:
        source: a file that was saved with `example=`, or a program and its tensors.
        threads: of one call. Small networks are not faster with two.
        isa: "avx512", "avx2" or "portable"; "torch" is the fallback without C. Default: $RESPROUT_ISA, or the best there is.
        trials: seconds to spend on choosing kernels by trial on this machine; 0 chooses by rule.

    Calls from several Python threads wait for each other.

    Raises:
        ResproutError: bad arguments, a file without a program, or values too large for the memory.
        CheckpointError: a damaged file.
    """

    def __init__(
        self,
        source: str | Path | tuple[Program, Mapping[str, Tensor]],
        threads: int = 1,
        *,
        isa: str | None = None,
        trials: float = TRIALS,
    ):
        if not isinstance(threads, int) or not 1 <= threads <= 256:
            raise ResproutError(f"threads must be a whole number from 1 on, got {threads!r}")
        self.program, self._tensors = source if isinstance(source, tuple) else _opened(source)
        self.program.check(self._tensors)
        if sum(np.prod(s) for s in self.program.shapes) > LARGEST:
            raise ResproutError("the values of this network are too large for the runtime; use a smaller input")
        self.threads, self.trials = threads, trials
        self.isa = _isa(isa)
        self._lock = threading.Lock()
        self._nets: dict[tuple[bool, int], _Net] = {}
        self._batch: list[_Chain] = []  # for large batches, one for each thread
        self._workers = ThreadPoolExecutor(threads) if threads > 1 else None
        self._input, self._output = self.program.input, self.program.output
        if self.isa != "torch":
            self._lanes = native.library().rs_lanes(self.isa.encode())
            self._net(False)

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, threads: int = 1, *, isa: str | None = None) -> Runtime:
        """Return the runtime of a model in memory, for inputs like `example` (its dead weights are its zeros).

        Raises:
            TraceError: a model that devices do not know.
        """
        traced = program_of(model, example)
        return cls((traced.program, traced.tensors), threads, isa=isa)

    def __call__(self, x: Any) -> NDArray[np.float32]:
        """Return the outputs (N, ...) for inputs (N, channels, height, width) or (N, features).

        Raises:
            ResproutError: another shape, or numbers that are no floats.
        """
        x = self._checked(x)
        if self.isa == "torch":
            return interpret.run(self.program, self._tensors, torch.tensor(x)).numpy()
        y = np.empty((len(x), *self._output), np.float32)
        with self._lock:
            groups = len(x) // self._lanes
            many = groups * self._lanes if groups >= self.threads else 0
            if many:
                self._spread(x, y, groups)
            if many < len(x):
                self._net(False).run(x[many:], y[many:])
        return y

    @property
    def ram(self) -> int:
        """Bytes of activations and scratch that are really used (of all forms that have been needed so far)."""
        return sum(net.bytes for net in {*self._nets.values(), *(net for chain in self._batch for net in chain.nets)})

    def layers(self, runs: int = 0, batch: bool = False) -> list[Layer]:
        """Return what every operation became, measured `runs` times each (0: not at all).

        Args:
            runs: the median of so many runs is each layer's time.
            batch: of the form for large batches (times and flops are per image all the same).
        """
        if self.isa == "torch":
            return []
        with self._lock:
            return self._net(batch).layers(runs)

    def _checked(self, x: Any) -> NDArray[np.float32]:
        x = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        if x.shape[1:] != self._input or not x.ndim:
            wanted = ", ".join(map(str, ("N", *self._input)))
            raise ResproutError(f"x must be of shape ({wanted}), got {x.shape}")
        if len(x) == 0:
            raise ResproutError("x holds no sample: the batch is empty")
        if x.dtype.kind not in "fiub":
            raise ResproutError(f"x must hold real numbers, got {x.dtype}")
        return np.ascontiguousarray(x, np.float32)

    def _net(self, many: bool, threads: int | None = None) -> _Net:
        key = (many, threads or self.threads)
        if key not in self._nets:
            self._nets[key] = self._made(self.program, *key)
        return self._nets[key]

    def _made(self, program: Program, many: bool, threads: int) -> _Net:
        return _Net(lower(program, self._tensors), self.isa, many, threads, self.trials)

    def _spread(self, x: NDArray[np.float32], y: NDArray[np.float32], groups: int) -> None:
        """Run so many groups of images, each thread its share of them."""
        if not self._batch:
            fastest = self._fastest(x[: self._lanes])
            self._batch = [fastest, *(fastest.twin() for _ in range(1, self.threads))]
        ends = [groups * i // self.threads * self._lanes for i in range(self.threads + 1)]
        shares = [slice(a, b) for a, b in itertools.pairwise(ends)]
        if self._workers is None:
            self._batch[0].run(x[shares[0]], y[shares[0]])
        else:
            list(self._workers.map(lambda chain, own: chain.run(x[own], y[own]), self._batch, shares))

    def _fastest(self, x: NDArray[np.float32]) -> _Chain:
        """The fastest way for as many images as there are lanes, by trial: one by one, side by side, or first so, then so."""
        alone = self._net(False, 1)
        try:
            beside = self._net(True, 1)
        except ResproutError:  # so many images at once do not fit into the memory
            return _Chain((alone,))
        if self.trials <= 0:
            return _Chain((beside,))
        ways = [_Chain((alone,)), _Chain((beside,))]
        cut = best_cut(self.program, alone.times(5), beside.times(5))
        if 0 < cut < len(self.program.ops):
            head, tail = halves(self.program, cut)
            between = np.empty((self._lanes, *head.output), np.float32)
            ways.append(_Chain((self._made(head, False, 1), self._made(tail, True, 1)), between))
        y = np.empty((len(x), *self._output), np.float32)

        def took(way: _Chain) -> float:
            times = []
            for _ in range(7):
                began = time.perf_counter()
                way.run(x, y)
                times.append(time.perf_counter() - began)
            return min(times)

        return min(ways, key=took)


@dataclass(frozen=True, eq=False)
class _Chain:
    """One net, or two with a buffer between them."""

    nets: tuple[_Net, ...]
    between: NDArray[np.float32] | None = None

    def twin(self) -> _Chain:
        """The same for another thread."""
        between = None if self.between is None else np.empty_like(self.between)
        return _Chain(tuple(net.twin() for net in self.nets), between)

    def run(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        if self.between is None:
            self.nets[0].run(x, y)
            return
        step = len(self.between)
        for i in range(0, len(x), step):
            self.nets[0].run(x[i : i + step], self.between)
            self.nets[1].run(self.between, y[i : i + step])


class _Net:
    """A network in C, for one image at a time or for as many as there are lanes."""

    def __init__(self, lowered: Lowered, isa: str, many: bool, threads: int, trials: float):
        self._lib, self._lowered = native.library(), lowered  # lowered: its arrays of scales are read in every run
        convs = sum(op.kind == 0 for op in lowered.ops)
        why = ctypes.create_string_buffer(200)
        ops = (native.Op * len(lowered.ops))(*lowered.ops)
        shapes = lowered.shapes
        self._net = self._lib.rs_net_new(
            isa.encode(),
            many,
            threads,
            trials / max(convs, 1),
            len(shapes),
            shapes.ctypes.data,
            len(ops),
            ops,
            why,
            200,
        )
        if not self._net:
            raise ResproutError(f"the runtime cannot make this network: {why.value.decode()}")
        self._lanes = self._lib.rs_lanes(isa.encode()) if many else 1
        self._of: _Net | None = None

    def twin(self) -> _Net:
        """The same with buffers of its own, for another thread."""
        twin = copy.copy(self)
        twin._net, twin._of = self._lib.rs_net_twin(self._net), self  # the original must outlive it
        if not twin._net:
            raise ResproutError("out of memory: use fewer threads")
        return twin

    def __del__(self) -> None:
        if getattr(self, "_net", None):
            self._lib.rs_net_free(self._net)

    @property
    def bytes(self) -> int:
        return self._lib.rs_net_bytes(self._net)

    def run(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        self._lib.rs_net_run(self._net, _start(x), _start(y), len(x))

    def times(self, runs: int) -> dict[int, float]:
        """Microseconds for one image of each of the program's operations, by their number."""
        found: dict[int, float] = {}
        for op, layer in zip(self._lowered.ops, self.layers(runs), strict=True):
            found[op.out - 1] = found.get(op.out - 1, 0.0) + layer.microseconds
        return found

    def layers(self, runs: int) -> list[Layer]:
        found = []
        for i, name in enumerate(self._lowered.names):
            info = native.Info()
            self._lib.rs_net_info(self._net, i, runs, ctypes.byref(info))
            flops, took = info.flops / self._lanes, info.microseconds / self._lanes
            found.append(Layer(name, info.variant.decode(), info.nonzeros, flops, info.bytes, took))
        return found


def _start(array: NDArray[np.float32]) -> Any:
    """Where a contiguous array begins, for C; a writable buffer tells it several times faster than numpy does."""
    return byref(c_char.from_buffer(array)) if array.flags.writeable else array.ctypes.data  # pyright: ignore


def _opened(path: str | Path) -> tuple[Program, Mapping[str, Tensor]]:
    archive = encoding.read(path)
    if archive.program is None:
        raise ResproutError(f"{path} holds weights, but no program to run: save it again with save(..., example=batch)")
    return archive.program, archive.tensors()


def _isa(asked: str | None) -> str:
    """The instruction set to use.

    Raises:
        ResproutError: it is unknown, or this machine lacks it.
    """
    asked = asked or os.environ.get("RESPROUT_ISA") or None
    if asked == "torch":
        return asked
    try:
        library = native.library()
    except (build.CompilerError, OSError) as error:
        if asked is not None:
            raise ResproutError(f"isa={asked!r} needs the C library: {error}") from error
        return "torch"
    if asked is None:
        return library.rs_best_isa().decode()
    if asked not in build.SETS:
        raise nearest(asked, [*build.SETS, "torch"], "isa")
    if not library.rs_lanes(asked.encode()):
        raise ResproutError(f"isa={asked!r}: this processor does not have it; leave isa out for the best it has")
    return asked
