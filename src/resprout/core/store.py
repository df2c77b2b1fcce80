"""Files that are whole or absent: atomic writes, checked reads, and the folder of a run.

Tensors are safetensors with a checksum, facts are JSON; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from .errors import CheckpointError, ResproutError


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ResproutError: the disk is full or not writable; what was there before is untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise ResproutError(
            f"cannot write {path} ({len(data):,} bytes): {why}; nothing was half-written, free space or change the folder"
        ) from error


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of `text` and of the names, types, shapes and bytes of `tensors`."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}:{t.dtype}:{tuple(t.shape)};".encode())
        sha.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts as one safetensors file with a checksum."""
    whole, text, seen = {}, json.dumps(facts), set()
    for name, tensor in tensors.items():
        whole[name] = tensor.detach().cpu().contiguous()
        if whole[name].data_ptr() in seen:  # tied weights, which safetensors refuses
            whole[name] = whole[name].clone()
        seen.add(whole[name].data_ptr())
    write(path, serialize(whole, {"facts": text, "check": checksum(whole, text)}))


def read_safetensors(path: str | Path, hint: str = "") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of any safetensors file.

    Raises:
        CheckpointError: it is none, is cut short, or is not there; `hint` says what to do then.
    """
    try:
        with safe_open(str(path), "pt") as f:
            return f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}){hint}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        CheckpointError: a file that is damaged, cut short, or foreign.
    """
    meta, tensors = read_safetensors(path, "; delete it to start this run again")
    if "facts" not in meta:
        raise CheckpointError(f"{path} is not a checkpoint of resprout")
    if meta.get("check") != checksum(tensors, meta["facts"]):
        raise CheckpointError(f"{path} is damaged: its checksum does not match; delete it to start this run again")
    return tensors, json.loads(meta["facts"])


class RunFolder:
    """The folder of one run: `config.json`, `trace.jsonl`, `checkpoint.safetensors`, `point-*.safetensors`, `result.json`.

    Its name ends in a hash of the configuration, so that the same configuration finds its folder again.
    """

    def __init__(self, root: str | Path, name: str, config: Mapping[str, Any]):
        text = json.dumps(config, sort_keys=True, indent=1)
        self.path = Path(root) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        self._text = text

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder, and write its configuration.

        Raises:
            CheckpointError: another process owns it, or its configuration is another one.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResproutError(f"cannot make the run folder {self.path}: {error}") from error
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                f"the run folder {self.path} is in use by another process; wait for it, or change seed or --out"
            ) from None
        try:
            for part in self.path.glob(".*.part"):  # of a process that was killed
                part.unlink()
            config = self.path / "config.json"
            if not config.exists():
                write(config, self._text.encode())
            elif config.read_bytes() != self._text.encode():
                raise CheckpointError(
                    f"{config} was changed or is damaged; delete the folder {self.path} to start again"
                )
            yield
        finally:
            lock.release()

    def trace(self, records: list[dict[str, Any]]) -> None:
        """Write the trace, one JSON line per step."""
        write(self.path / "trace.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())


def configuration(value: Any) -> str:
    """Return the `repr` of a method without the fields that hold their defaults, so that new options rename no old run."""
    if isinstance(value, tuple | list):
        inner = ", ".join(configuration(v) for v in value)
        return f"({inner},)" if isinstance(value, tuple) else f"[{inner}]"
    if not dataclasses.is_dataclass(value) or not value.__dataclass_params__.repr:  # pyright: ignore
        return repr(value)  # one that writes its own repr means it
    shown = [f for f in dataclasses.fields(value) if f.init and f.repr and getattr(value, f.name) != _default(f)]
    return f"{type(value).__name__}({', '.join(f'{f.name}={configuration(getattr(value, f.name))}' for f in shown)})"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
