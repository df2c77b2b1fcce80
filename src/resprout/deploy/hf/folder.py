"""A folder that is whole or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from ...core.errors import ResproutError


def may_become(out: Path, overwrite: bool) -> None:
    """Check that a folder may be made at `out`.

    Raises:
        ResproutError: there is a file, or a folder that is not empty and may not be replaced.
    """
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        raise ResproutError(
            f"{out} {'is not empty' if out.is_dir() else 'is a file'}: choose another folder"
            + (", or overwrite=True" if out.is_dir() else "")
        )


@dataclass
class New:
    """A folder that is being made; it gets its name if it is `good` in the end."""

    path: Path
    good: bool = False


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[New]:
    """Make a folder beside its place and move it there when it is whole; else leave nothing.

    Raises:
        ResproutError: the disk is full or not writable.
    """
    new = New(out.with_name(f".{out.name}.{os.getpid()}.part"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear(out)
        may_become(out, overwrite)
        new.path.mkdir()
        yield new
        if new.good:
            for file in (*new.path.iterdir(), new.path):
                _sync(file)
            may_become(out, overwrite)  # someone else may have been faster
            _move(new.path, out)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        raise ResproutError(
            f"cannot write {out}: {'the disk is full' if full else error}; nothing was half-written"
        ) from error
    finally:
        shutil.rmtree(new.path, ignore_errors=True)


def _clear(out: Path) -> None:
    """Remove what a process that was killed has left; a folder that it was about to replace gets its name back."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.*"):
        _, pid, kind = left.name.rsplit(".", 2)
        if kind not in ("part", "old") or not pid.isdigit() or _runs(int(pid)):
            continue
        if kind == "old" and not out.exists():
            os.rename(left, out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return pid != os.getpid()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(part: Path, out: Path) -> None:
    old = part.with_suffix(".old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(part, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
