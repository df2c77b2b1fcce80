"""The C library, loaded: found in the package, or built at the first use."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

from filelock import FileLock

from . import build

KINDS = ("conv", "scale", "pool", "add", "activation", "copy", "shortcut", "flatten", "softmax")  # as in ops.h


class Op(Structure):
    """`rs_op` of ops.h."""

    _fields_ = (
        ("kind", c_int32),
        ("out", c_int32),
        ("inputs", c_int32 * 2),
        ("kernel", c_int32 * 2),
        ("stride", c_int32 * 2),
        ("padding", c_int32 * 2),
        ("dilation", c_int32 * 2),
        ("groups", c_int32),
        ("maximum", c_int32),
        ("counts_padding", c_int32),
        ("at", c_int32),
        ("slope", c_float),
        ("cap", c_float),
        ("row", c_void_p),
        ("place", c_void_p),
        ("value", c_void_p),
        ("bias", c_void_p),
    )


class Info(Structure):
    """`rs_conv_info` of kernels.h."""

    _fields_ = (
        ("variant", c_char_p),
        ("nonzeros", c_int64),
        ("flops", c_double),
        ("microseconds", c_double),
        ("bytes", c_double),
    )


@cache
def library() -> ctypes.CDLL:
    """Return the library, with its functions declared.

    Raises:
        CompilerError: it is not in the package, and cannot be built.
        OSError: it cannot be loaded or written.
    """
    own, key = build.beside(), build.beside().with_suffix(".key")
    fresh = own.exists() and key.exists() and key.read_text() == build.fingerprint()
    lib = ctypes.CDLL(str(own if fresh else _built()))
    lib.rs_best_isa.restype = c_char_p
    lib.rs_lanes.argtypes = (c_char_p,)
    lib.rs_net_new.restype = c_void_p
    lib.rs_net_new.argtypes = (
        c_char_p, c_int, c_int, c_double, c_int, c_void_p, c_int, POINTER(Op), c_char_p, c_size_t,
    )  # fmt: skip
    lib.rs_net_twin.argtypes, lib.rs_net_twin.restype = (c_void_p,), c_void_p
    lib.rs_net_free.argtypes, lib.rs_net_free.restype = (c_void_p,), None
    lib.rs_net_run.argtypes, lib.rs_net_run.restype = (c_void_p, c_void_p, c_void_p, c_int64), None
    lib.rs_net_bytes.argtypes, lib.rs_net_bytes.restype = (c_void_p,), c_size_t
    lib.rs_net_info.argtypes, lib.rs_net_info.restype = (c_void_p, c_int, c_int, POINTER(Info)), None
    return lib


def _built() -> Path:
    """The library of a source tree, built if its sources have changed."""
    path = build.cached()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path.with_suffix(".lock"))):
            if not path.exists():
                build.build(path)
    return path
