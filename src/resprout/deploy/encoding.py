"""The saved file, format `resprout-2`: sparse weights near their entropy, in a safetensors container.

docs/file-format.md is the specification. A file is an `Archive`: the weights as `Sparse` tensors, the rest (biases, norms,
statistics) dense, and, where the network was traced, the program that they belong to.

What this file does not do: the bit streams of one tensor (`sparse.py`), or models (`file.py`).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError, nearest
from ..core.masks import PRUNABLE, Masks
from ..core.store import checksum, read_safetensors
from .folding import stored
from .index import Index, inflate
from .program import Program
from .quantise import grams, quantise, refit, relative_error
from .sparse import LARGEST, LARGEST_WEIGHT, VALUES, Packed, Sparse, pack, unpack

if TYPE_CHECKING:
    from .trace import Traced

FORMAT = "resprout-2"
__all__ = ["FORMAT", "VALUES", "Archive", "Packed", "Sparse", "archive", "encode", "pack", "parse", "read", "size"]


@dataclass(frozen=True)
class Archive:
    """A whole file in memory.

    Attributes:
        values: "fp32", "fp16", "int8" or "int4".
        weights: name -> sparse tensor.
        rest: name -> float32 tensor: biases, norms that are not folded, statistics.
        program: the network's operations, if it was traced.
        folds: name of a weight -> prefix of the norm that is folded into it.
        ties: further name of a tensor -> the name that it is stored under.
        unused: names in the `state_dict` that the program does not need; they are not in the file.
        metadata: strings: format, values, and what was noted (model, budget, provenance, error).
        errors: name of a weight -> norm of what rounding lost over the norm; known when written, not when read.
    """

    values: str
    weights: dict[str, Sparse]
    rest: dict[str, Tensor]
    program: Program | None = None
    folds: dict[str, str] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors dense, float32, as the program takes them."""
        whole = {n: s.dense() for n, s in self.weights.items()} | self.rest
        return whole | {n: whole[where] for n, where in self.ties.items()}


# -- from a model --------------------------------------------------------------------------------------------------


def archive(
    model: nn.Module,
    masks: Masks,
    values: str = "fp16",
    traced: Traced | None = None,
    notes: Mapping[str, str] | None = None,
    data: Sequence[Any] | None = None,
) -> Archive:
    """Return what a file of `model` holds.

    Args:
        model: the network with its present weights, in any mode.
        masks: which weights are alive. Conv and linear weights without a mask are stored with all weights alive.
        values: the type of the alive weights: "fp32", "fp16", "int8" or "int4".
        traced: its program and which norms to fold (`trace.trace`, perhaps of earlier weights).
        notes: metadata to add, say {"budget": "64KiB"}; "model" is its class unless it is given here.
        data: batches to round by (for integers), see `quantise.refit`; the size in bytes then differs a little.

    Raises:
        ResproutError: unknown `values` or names, NaN or infinity, or values beyond float16.
    """
    if values not in VALUES:
        raise nearest(values, VALUES, "values")
    what = stored(model, traced)
    alive = _masks(model, Masks({what.ties.get(n, n): m for n, m in masks.items()}), what.tensors, what.unused)
    gathered = {n: _gather(what.tensors[n], mask, what.factors.get(n)) for n, mask in alive.items()}
    weights = {n: _sparse(n, what.tensors[n], *gathered[n], values) for n in gathered}
    if data is not None:
        if values not in LARGEST:
            raise ResproutError(f"data= fits the rounding to integers; with values={values!r} leave it out")
        for n, gram in grams(model, list(weights), data):
            weights[n] = refit(weights[n], gathered[n][1], gram, values)
    rest = {n: t.float().contiguous() for n, t in what.tensors.items() if n not in weights}
    for name, tensor in rest.items():
        if not torch.isfinite(tensor).all():
            raise ResproutError(f"{name!r} holds NaN or infinity; nothing was written")
    errors = {n: relative_error(s, gathered[n][1]) for n, s in weights.items()} if values in LARGEST else {}
    known = {} if traced is None else {"program": traced.program, "folds": dict(traced.folds), "unused": what.unused}
    metadata = {"model": f"{type(model).__module__}.{type(model).__qualname__}", **(notes or {})}
    return Archive(values, weights, rest, ties=what.ties, metadata=metadata, errors=errors, **known)


def _masks(model: nn.Module, masks: Masks, tensors: Mapping[str, Tensor], unused: Sequence[str]) -> dict[str, Tensor]:
    """The masks of all weights that are stored sparse, in the order of the tensors."""
    if not masks:
        raise ResproutError("the masks name no weight at all")
    for name, mask in masks.items():
        if name not in unused and (name not in tensors or tensors[name].shape != mask.shape):
            raise ResproutError(
                f"the masks name {name!r} of shape {tuple(mask.shape)}, which {type(model).__name__} does not have"
            )
    owners = {f"{prefix}.weight".lstrip(".") for prefix, m in model.named_modules() if isinstance(m, PRUNABLE)}
    full = {n: torch.ones(tensors[n].shape, dtype=torch.bool) for n in tensors if n in owners and n not in masks}
    both = {**full, **masks}
    return {n: both[n].detach().cpu() for n in tensors if n in both}


def _gather(tensor: Tensor, mask: Tensor, factor: Tensor | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The places and values of the alive weights, folded."""
    places = np.flatnonzero(mask.reshape(-1).numpy())
    weights = tensor.reshape(-1)[torch.from_numpy(places)].float()
    if factor is not None:
        weights = (weights * factor[torch.from_numpy(places // (tensor.numel() // len(factor)))]).float()
    return places, weights.numpy()


def _sparse(name: str, tensor: Tensor, places: NDArray[np.int64], weights: NDArray[np.float32], values: str) -> Sparse:
    """One tensor in the type of the file."""
    codes = torch.from_numpy(weights).to(VALUES[values] if values not in LARGEST else torch.float32)
    if not torch.isfinite(codes).all() or (values in LARGEST and (codes.abs() > LARGEST_WEIGHT).any()):
        beyond = "" if values == "fp32" else f", or values beyond {values}: save with values='fp32'"
        raise ResproutError(f"{name!r} holds NaN or infinity{beyond}; nothing was written")
    shape = tuple(tensor.shape)
    if values in LARGEST:
        return quantise(shape, places, weights, values)
    return Sparse(shape, torch.from_numpy(places), codes)


# -- writing -------------------------------------------------------------------------------------------------------


def encode(archive: Archive) -> bytes:
    """Return the bytes of the file."""
    packed = {n: pack(s) for n, s in archive.weights.items()}
    streams = [p.streams() for p in packed.values()]
    parts = [part for s in streams for part in (np.array([zlib.crc32(s.data)], "<u4").view(np.uint8), s)]
    tensors = _tensors(archive, packed, np.concatenate(parts))
    header = _header(archive, {n: len(t) for n, t in tensors.items()}, _checksum(tensors, _claims(archive)))
    return b"".join([header, *(t.numpy().tobytes() for t in tensors.values())])


def size(
    model: nn.Module,
    masks: Masks,
    values: str = "fp16",
    traced: Traced | None = None,
    notes: Mapping[str, str] | None = None,
) -> int:
    """Return the exact bytes of the file that `archive` with these arguments and `encode` give, without making it."""
    whole = archive(model, masks, values, traced, notes)
    packed = {n: pack(s) for n, s in whole.weights.items()}
    lengths = {n: len(t) for n, t in _tensors(whole, packed, np.zeros(0, np.uint8)).items()}
    lengths["weights"] = sum(4 + p.size for p in packed.values())
    return len(_header(whole, lengths, "0" * 32)) + sum(lengths.values())


def _header(archive: Archive, lengths: Mapping[str, int], checksum: str) -> bytes:
    """What stands before the tensors in a safetensors file. The library's own writer orders metadata by chance."""
    header: dict[str, Any] = {"__metadata__": dict(sorted({**_claims(archive), "checksum": checksum}.items()))}
    at = 0
    for name, length in lengths.items():
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _claims(archive: Archive) -> dict[str, str]:
    """The metadata, but for the checksum."""
    return archive.metadata | {"format": FORMAT, "values": archive.values}


def _checksum(tensors: Mapping[str, Tensor], claims: Mapping[str, str]) -> str:
    """128 bits over all tensors and the metadata."""
    return checksum(tensors, json.dumps(claims, sort_keys=True))[:32]


def _tensors(archive: Archive, packed: Mapping[str, Packed], weights: NDArray[np.uint8]) -> dict[str, Tensor]:
    numbers = [t.numpy().reshape(-1) for t in archive.rest.values()]
    rest = np.concatenate([np.zeros(0, np.float32), *numbers]).astype("<f4")
    half = archive.values != "fp32" and float(np.abs(rest).max(initial=0)) <= 65504
    rest = rest.astype("<f2") if half else rest
    rows = {n: (s.shape, s.alive, packed[n].row()) for n, s in archive.weights.items()}
    shapes = {n: tuple(t.shape) for n, t in archive.rest.items()}
    bits = 16 if half else 32
    index = Index(rows, shapes, bits, archive.program, archive.folds, archive.ties, archive.unused)
    found = {
        "index": index.deflated(),
        "rest": _planes(rest) if archive.values in LARGEST else rest.view(np.uint8),
        "weights": weights,
    }
    return {n: torch.from_numpy(a.copy()) for n, a in found.items()}


def _planes(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """The highest bytes of all numbers, then the next, deflated in a block each: the high ones repeat.

    Only files of integers have this: the size of the others is a matter of masks, and stays when weights are trained.
    """
    deflate = zlib.compressobj(9)
    planes = numbers.view(np.uint8).reshape(len(numbers), -1).T[::-1] if len(numbers) else []
    parts = [deflate.compress(np.ascontiguousarray(p).data) + deflate.flush(zlib.Z_FULL_FLUSH) for p in planes]
    return np.frombuffer(b"".join(parts) + deflate.flush(), np.uint8)


# -- reading -------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Archive:
    """Return a file made by `encode`.

    Raises:
        CheckpointError: a file that is damaged, cut short, or of another format.
    """
    meta, tensors = read_safetensors(path)
    try:
        return parse(meta, tensors)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("the file", str(path), 1)) from error


def parse(meta: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Archive:
    """As `read`, from the metadata and tensors of a safetensors file.

    Raises:
        CheckpointError: they are damaged, or of another format.
    """
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"the file is no file of format {FORMAT}; it says {meta.get('format')!r}")
    claims = {k: v for k, v in meta.items() if k != "checksum"}
    flat = all(t.dtype == torch.uint8 and t.dim() == 1 for t in tensors.values())
    if not flat or set(tensors) != {"index", "rest", "weights"} or meta.get("values") not in VALUES:
        raise CheckpointError("the file is damaged: it does not hold what its format says")
    if meta.get("checksum") != _checksum(tensors, claims):
        raise CheckpointError("the file is damaged: its checksum does not match")
    index = Index.parse(tensors["index"].numpy())
    index.check(sum(t.numel() for t in tensors.values()))
    weights = _weights(index, tensors["weights"].numpy(), meta["values"])
    rest = _rest(index, tensors["rest"].numpy(), meta["values"])
    return Archive(meta["values"], weights, rest, index.program, index.folds, index.ties, index.unused, claims)


def _weights(index: Index, data: NDArray[np.uint8], values: str) -> dict[str, Sparse]:
    """All weights; each stands behind the CRC-32 of its streams."""
    found, at = {}, 0
    for name, (shape, alive, row) in index.weights.items():
        if alive > 8 * len(data) or len(row) != (8 if values in LARGEST else 2):
            raise CheckpointError(f"the file is damaged: the index of {name!r}")
        found[name], taken = unpack(shape, alive, row, data[at + 4 :], values)
        if data[at : at + 4].tobytes() != zlib.crc32(data[at + 4 : at + 4 + taken].data).to_bytes(4, "little"):
            raise CheckpointError(f"the file is damaged: the checksum of {name!r} does not match")
        at += 4 + taken
    if at != len(data):
        raise CheckpointError("the file is damaged: bytes behind the last weight")
    return found


def _rest(index: Index, data: NDArray[np.uint8], values: str) -> dict[str, Tensor]:
    """The dense tensors, float32."""
    sizes = [math.prod(s) for s in index.rest.values()]
    width, count = index.bits // 8, sum(sizes)
    if values in LARGEST:
        try:
            data = np.frombuffer(inflate(data, width * count), np.uint8)
        except ValueError as error:
            raise CheckpointError(f"the file is damaged: {error}") from error
    if len(data) != width * count:
        raise CheckpointError("the file is damaged: biases and norms are missing")
    if values in LARGEST:
        data = np.ascontiguousarray(data.reshape(width, count)[::-1].T).reshape(-1)
    numbers = data.view(f"<f{width}").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise CheckpointError("the file is damaged: biases or norms are NaN or infinite")
    parts = torch.from_numpy(numbers).split(sizes)
    return {n: t.reshape(s).clone() for (n, s), t in zip(index.rest.items(), parts, strict=True)}
