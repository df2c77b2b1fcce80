"""Dense inference engines beside ours, each set up as someone who knows it would: for `resprout bench` and benchmarks/.

Each function returns a call without arguments that computes one batch, input and output staying where they are. None of the
engines is a dependency of this package; one that is not installed is a ResproutError that says what to install.

What this file does not do: measure, or quantise: all compute in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import ResproutError

Floats = NDArray[np.float32]
Call = Callable[[], Floats]


def eager(model: Callable[[Tensor], Tensor], x: Floats) -> Call:
    """PyTorch without compilation, in the memory format that is faster; `torch.set_num_threads` is the caller's."""
    return quickest([_in_torch(model, x, form) for form in (torch.contiguous_format, torch.channels_last)])


def compiled(model: torch.nn.Module, x: Floats) -> Call:
    """`torch.compile` with frozen weights, static shapes and the C++ wrapper, in the memory format that is faster.

    Freezing lets oneDNN pack the weights once; the wrapper takes Python out of the calls between kernels.
    """
    import torch._inductor.config as settings

    settings.freezing, settings.cpp_wrapper = True, True
    calls = []
    for form in (torch.contiguous_format, torch.channels_last):
        torch._dynamo.reset()
        calls.append(_in_torch(torch.compile(model, dynamic=False), x, form))
        calls[-1]()  # compiles
    return quickest(calls)


def _in_torch(model: Callable[[Tensor], Tensor], x: Floats, form: torch.memory_format) -> Call:
    given = torch.from_numpy(x)
    given = given.contiguous(memory_format=form) if given.dim() == 4 else given

    @torch.no_grad()
    def call() -> Floats:
        return model(given).numpy()

    return call


def onnx_runtime(file: Path, x: Floats, threads: int) -> Call:
    """ONNX Runtime with all graph optimisations, a fixed batch, and input and output bound."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ResproutError("ONNX Runtime is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    first = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()[0]
    if isinstance(first.shape[0], str):
        options.add_free_dimension_override_by_name(first.shape[0], len(x))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    binding, result = session.io_binding(), session.get_outputs()[0]
    y = np.empty((len(x), *result.shape[1:]), np.float32)
    binding.bind_cpu_input(first.name, x)
    binding.bind_output(result.name, "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return partial(_run, partial(session.run_with_iobinding, binding), x, y)


def openvino(file: Path, x: Floats, threads: int) -> Call:
    """OpenVINO for latency, held to float32, with or without its decompression of sparse weights, whichever is faster."""
    try:
        import openvino as ov  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ResproutError("OpenVINO is not installed: pip install openvino") from error
    core = ov.Core()
    model = core.read_model(file)
    model.reshape(list(x.shape))
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # or it computes in bfloat16 where the processor can
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }

    def build(rate: float) -> Call:
        compiled = core.compile_model(model, "CPU", settings | {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": rate})
        precision = compiled.get_property("INFERENCE_PRECISION_HINT")
        if precision != ov.Type.f32:
            raise ResproutError(f"OpenVINO computes in {precision} though float32 was asked for")
        request = compiled.create_infer_request()
        y = np.empty([d.get_length() for d in compiled.output().partial_shape], np.float32)
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.set_output_tensor(ov.Tensor(y, shared_memory=True))
        return partial(_run, request.infer, x, y)

    return quickest([build(1.0), build(0.5)])


def _run(run: Callable[[], Any], x: Floats, y: Floats) -> Floats:
    """Run what was bound to the memory of `x` and `y`, which must live as long as it."""
    run()
    return y


def quickest(calls: Sequence[Call], rounds: int = 5) -> Call:
    """Return the call with the least time, after one to warm up; they take turns."""
    best = [float("inf")] * len(calls)
    for turn in range(rounds + 1):
        for i, call in enumerate(calls):
            began = time.perf_counter()
            call()
            if turn:
                best[i] = min(best[i], time.perf_counter() - began)
    return calls[best.index(min(best))]
