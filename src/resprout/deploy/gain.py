"""What a smaller network really gains: parameters, multiply-adds, and time measured here; or that it gains nothing.

Multiply-adds are those of matrix products and convolutions, as PyTorch's own counter finds them in one call.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import ResproutError
from ..core.hold import unwrap
from ..core.modes import evaluating
from ..core.probe import describe
from ..graph.tape import arguments, aside
from .rivals import onnx_runtime

SECONDS = 2.0  # of measuring, for each engine
ROUNDS = 15  # at least
TURN = 0.05  # seconds that a network's turn should last
MARGIN = 1.02  # two copies of one network differ by as much, for their weights lie elsewhere in memory


@dataclass(frozen=True)
class Times:
    """How long one call takes in one engine.

    Attributes:
        engine: its name.
        before, after: the median milliseconds of the dense and of the small network.
        ratio: before / after within a round, in which both have a turn: lower quartile, median, upper quartile.
    """

    engine: str
    before: float
    after: float
    ratio: tuple[float, float, float]

    @property
    def faster(self) -> bool:
        """Whether the small network wins by more than the noise: by over 2 % in three quarters of the rounds."""
        return self.ratio[0] > MARGIN

    def __str__(self) -> str:
        low, middle, high = self.ratio
        said = f"{self.before:.4g} -> {self.after:.4g} ms with {self.engine}"
        if self.faster:
            return f"{said}, {middle:.2f} times faster (quartiles {low:.2f}–{high:.2f})"
        why = f"{1 / middle:.2f} times slower" if high < 1 / MARGIN else "within the noise"
        return f"{said}, no gain: {why} (dense / small {middle:.2f}, quartiles {low:.2f}–{high:.2f})"


@dataclass(frozen=True)
class Gain:
    """What a smaller network needs beside its dense one; `str` says it in words.

    Attributes:
        parameters: numbers in all parameters, (before, after).
        macs: multiply-adds of one call with the example, (before, after).
        times: measured in PyTorch, and in ONNX Runtime if that was asked for.
        threads: of the engines.
    """

    parameters: tuple[int, int]
    macs: tuple[int, int]
    times: tuple[Times, ...]
    threads: int = 1

    @property
    def latency(self) -> tuple[float, float]:
        """Milliseconds in PyTorch, (before, after)."""
        return self.times[0].before, self.times[0].after

    @property
    def text(self) -> str:
        """Say what was gained, and where nothing was."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        lines = [_counted("parameters", self.parameters), _counted("multiply-adds", self.macs)]
        return "\n".join([*lines, *(f"latency {t}, {threads}" for t in self.times)])

    def __str__(self) -> str:
        return self.text


def _counted(what: str, pair: tuple[int, int]) -> str:
    before, after = pair
    if after >= before:
        return f"{what} {before:,} -> {after:,}, no gain"
    return f"{what} {before:,} -> {after:,}, {100 * (1 - after / before):.1f} % fewer"


def gain(dense: nn.Module, small: nn.Module, example: Any, *, onnx: bool = False, seconds: float = SECONDS) -> Gain:
    """Count and measure what `small` gains over `dense`, on this machine and with the threads that PyTorch has.

    The two take turns, in eval mode. It says "no gain" where the small network does not win by 2 % in three quarters of the
    rounds.

    Args:
        dense, small: networks that take the same input; they are left as they are.
        example: what they are called with, a batch as it is: a tensor, a tuple of arguments, or a mapping.
        onnx: also in ONNX Runtime, exported by `torch.onnx`; for networks of one float32 tensor.
        seconds: to measure for each engine, but at least 15 rounds.

    Raises:
        ResproutError: a network that cannot be called with the example, or with `onnx` one that cannot be exported, or ONNX
            Runtime is not installed.

    Example:
        >>> dense, small = nn.Linear(64, 64), nn.Linear(64, 32)
        >>> gain(dense, small, torch.randn(1, 64), seconds=0.01).macs
        (4096, 2048)
    """
    pair = [unwrap(dense), unwrap(small)]
    before, after = (multiply_adds(model, example) for model in pair)
    sizes = [sum(p.numel() for p in model.parameters()) for model in pair]
    with evaluating(pair[0]), evaluating(pair[1]):
        times = [compare("PyTorch", [_in_torch(m, example) for m in pair], seconds)]
        if onnx:
            with tempfile.TemporaryDirectory() as folder:
                calls = [_in_onnx(m, example, Path(folder) / f"{i}.onnx") for i, m in enumerate(pair)]
                times.append(compare("ONNX Runtime", calls, seconds))
    return Gain((sizes[0], sizes[1]), (before, after), tuple(times), torch.get_num_threads())


def multiply_adds(model: nn.Module, example: Any) -> int:
    """Return the multiply-adds of matrix products and convolutions in one call of `model`.

    Raises:
        ResproutError: it cannot be called with the example.
    """
    args, kwargs = arguments(example)
    counter = FlopCounterMode(display=False)
    # The counter knows plain products only, so attention and recurrent layers are run as what they are made of.
    with aside(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), counter:
            try:
                model(*args, **kwargs)
            except Exception as error:  # of any kind, for it runs the model's own code
                reason = str(error).strip().partition("\n")[0]
                raise ResproutError(
                    f"{type(model).__name__} cannot be called with {describe(example)}: {reason}"
                ) from error
    return counter.get_total_flops() // 2


def compare(
    engine: str,
    calls: Sequence[Callable[[], Any]],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time the calls of a dense and of a small network in turns: dense, small, dense, small, ..."""
    for call in calls:  # to warm up
        call()
    repeat = [max(1, min(500, round(TURN / max(_once(call, clock), 1e-9)))) for call in calls]
    rounds: list[list[float]] = []
    began = clock()
    while len(rounds) < ROUNDS or clock() - began < seconds:
        rounds.append(
            [statistics.median(_once(call, clock) for _ in range(n)) for call, n in zip(calls, repeat, strict=True)]
        )
    before, after = (1e3 * statistics.median(took) for took in zip(*rounds, strict=True))
    low, middle, high = statistics.quantiles([a / max(b, 1e-9) for a, b in rounds], n=4, method="inclusive")
    return Times(engine, before, after, (low, middle, high))


def _once(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def _in_torch(model: nn.Module, example: Any) -> Callable[[], Any]:
    args, kwargs = arguments(example)
    cuda = any(p.is_cuda for p in model.parameters())

    @torch.inference_mode()
    def call() -> None:
        model(*args, **kwargs)
        if cuda:
            torch.cuda.synchronize()

    return call


def _in_onnx(model: nn.Module, example: Any, file: Path) -> Callable[[], Any]:
    """The network in ONNX Runtime, as `resprout bench` sets that up."""
    if not isinstance(example, Tensor) or example.dtype is not torch.float32:
        raise ResproutError(f"onnx=True is for networks of one float32 tensor, got {describe(example)}; leave it out")
    if find_spec("onnxruntime") is None:
        raise ResproutError("onnx=True needs ONNX Runtime: pip install 'resprout[onnx]' onnxruntime")
    x = example.detach().cpu()
    export = partial(torch.onnx.export, copy.deepcopy(model).cpu(), (x,), str(file), verbose=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older exporter, which needs no further package
            export(dynamo=find_spec("onnxscript") is not None)
    except Exception as error:  # of any kind, for it runs the model's own code
        reason = str(error).strip().partition("\n")[0]
        raise ResproutError(f"torch.onnx cannot export {type(model).__name__}: {reason}; leave onnx out") from error
    return onnx_runtime(file, np.ascontiguousarray(x.numpy()), torch.get_num_threads())
