"""Compile the C sources beside this file into one shared library, with whatever C compiler the system has.

Used in two places: by the package's build (`hatch_build.py`), which puts the library into the wheel, and at the first use from
a source tree, which puts it into the user's cache. It imports nothing of ours, so that the build can load it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
NAME = "_native" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
ONCE = ("net", "team", "shapes")  # files compiled once
PER_SET = ("kernels", "ops")  # and once for each instruction set
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fvisibility=hidden")
_SSE = {"portable": ("4",)}
_X86 = {
    "avx512": ("16", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    "avx2": ("8", "-mavx2", "-mfma"),
}
SETS: Mapping[str, tuple[str, ...]] = _X86 | _SSE if platform.machine() in ("x86_64", "AMD64") else _SSE


class CompilerError(Exception):
    """There is no C compiler, or it fails; the message says which."""


def compiler() -> list[str]:
    """Return the command of the system's C compiler: $CC, cc, gcc or clang.

    Raises:
        CompilerError: there is none.
    """
    for command in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise CompilerError("there is no C compiler: install gcc or clang, or name one in $CC")


def jobs(sets: Mapping[str, tuple[str, ...]] = SETS) -> list[tuple[str, list[str]]]:
    """Return (name of an object, source and flags) for everything that is to be compiled."""
    there = [f"-DRS_HAS_{isa.upper()}" for isa in sets]
    once = [(f"{name}.o", [f"{name}.c", *there]) for name in ONCE]
    per_set = [
        (f"{name}-{isa}.o", [f"{name}.c", f"-DRS_ISA={isa}", f"-DRS_LANES={lanes}", *flags])
        for isa, (lanes, *flags) in sets.items()
        for name in PER_SET
    ]
    return per_set + once


def build(target: Path, extra: tuple[str, ...] = ()) -> Path:
    """Compile into `target`, which is replaced whole.

    Raises:
        CompilerError: no compiler, or the one there is fails; with what it says.
    """
    command = compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = [str(Path(folder) / name) for name, _ in jobs()]
        running = [
            subprocess.Popen(
                [*command, *FLAGS, *extra, "-c", str(SOURCES / source), *flags, "-o", made[i]],
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, (_, (source, *flags)) in enumerate(jobs())
        ]
        said = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            raise CompilerError(f"{command[0]} failed:\n" + "\n".join(filter(None, said))[:4000])
        handle, part = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
        os.close(handle)
        link = [*command, *extra, "-shared", "-o", part, *made, "-lm", "-lpthread"]
        linked = subprocess.run(link, capture_output=True, text=True)
        if linked.returncode:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise CompilerError(f"{command[0]} cannot link:\n{linked.stderr[:4000]}")
        os.chmod(part, 0o755)
        os.replace(part, target)
    return target


def fingerprint() -> str:
    """Return what the sources, the flags and this kind of machine determine; a library is up to date if it has it."""
    text = hashlib.sha256(repr((FLAGS, jobs(), platform.machine(), sys.platform)).encode())
    for path in sorted(SOURCES.iterdir()):
        text.update(path.name.encode() + path.read_bytes())
    return text.hexdigest()[:16]


def beside() -> Path:
    """Where the package's own library lies; `beside().with_suffix(".key")` holds its fingerprint."""
    return Path(__file__).parent / NAME


def cache() -> Path:
    """Where this user keeps what can be made again: $RESPROUT_CACHE, $XDG_CACHE_HOME/resprout or ~/.cache/resprout."""
    own = os.environ.get("RESPROUT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resprout"


def cached() -> Path:
    """Where a source tree's library lies."""
    return cache() / f"native-{fingerprint()}{Path(NAME).suffix}"


def install() -> Path:
    """Build the library into the package, with its fingerprint.

    Raises:
        CompilerError: see `build`.
    """
    made = build(beside())
    made.with_suffix(".key").write_text(fingerprint())
    return made


def platform_tag() -> str:
    """Return the wheel's platform, such as "linux_x86_64"."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
