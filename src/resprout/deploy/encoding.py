"""How many bytes a sparse network takes, and the plain encoding behind that number.

A file is a safetensors container of three tensors: `places` (uint8), `values` (float32 or float16) and `rest` (float32:
every other floating-point tensor of the `state_dict`, in order). A prunable tensor's alive weights are listed in flat
order; each place is the number of dead weights since the one before, where 255 means "255 dead ones, read on". The
metadata holds which entries of the `state_dict` are prunable, the number of places and values of each, a fingerprint
of names and shapes, and a checksum.

What this file does not do: entropy coding, integers, or reading a file without the model (a later format will).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ..core.errors import CheckpointError, ResproutError, nearest
from ..core.masks import Masks
from ..core.store import checksum, read_safetensors

FORMAT = "resprout-gaps-1"
VALUES = {"fp32": torch.float32, "fp16": torch.float16}


def _check_values(values: str) -> None:
    if values not in VALUES:
        raise nearest(values, VALUES, "values")


def gaps(mask: Tensor) -> Tensor:
    """Encode the places of a flat bool mask as uint8: dead weights before each alive one, 255 = read on."""
    places = torch.nonzero(mask.reshape(-1)).flatten()
    before = torch.diff(places, prepend=torch.tensor([-1], device=places.device)) - 1
    skips = before // 255
    out = torch.full((int(skips.sum()) + len(places),), 255, dtype=torch.uint8)
    ends = torch.cumsum(skips + 1, 0) - 1
    out[ends.cpu()] = (before % 255).to(torch.uint8).cpu()
    return out


def places(codes: Tensor, size: int) -> Tensor:
    """Decode `gaps` into flat positions.

    Raises:
        CheckpointError: a position beyond `size`.
    """
    codes = codes.long()
    if len(codes) and codes[-1] == 255:
        raise CheckpointError("the file is damaged: a tensor's places end in the middle")
    ends = codes != 255
    position = (torch.cumsum(codes + ends, 0) - 1)[ends]
    if len(position) and int(position[-1]) >= size:
        raise CheckpointError("the file is damaged: a place lies outside its tensor")
    return position


def _layout(model: nn.Module, masks: Masks) -> tuple[Masks, list[str], str]:
    """The masks in the order of the `state_dict`, the names of `rest`, and a fingerprint of all names and shapes."""
    state = model.state_dict()
    if not masks:
        raise ResproutError("the masks name no weight at all")
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise ResproutError(
                f"the masks name {name!r} of shape {tuple(mask.shape)}, which {type(model).__name__} does not have"
            )
    masks = Masks({n: masks[n] for n in state if n in masks})
    rest = [n for n, t in state.items() if n not in masks and t.is_floating_point()]
    shapes = [(n, tuple(state[n].shape)) for n in [*masks, *rest]]
    return masks, rest, hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]


def _meta(model: nn.Module, masks: Masks, values: str, layout: str, counts: list[tuple[int, int]]) -> dict[str, str]:
    which = [i for i, name in enumerate(model.state_dict()) if name in masks]
    return {
        "format": FORMAT,
        "values": values,
        "which": json.dumps(which, separators=(",", ":")),
        "counts": json.dumps(counts, separators=(",", ":")),
        "layout": layout,
    }


def _claims(meta: Mapping[str, str]) -> str:
    """What the metadata says, for the checksum."""
    return json.dumps({k: v for k, v in meta.items() if k != "check"}, sort_keys=True)


def encode(model: nn.Module, masks: Masks, values: str = "fp32", provenance: Mapping[str, Any] | None = None) -> bytes:
    """Return the bytes of the file.

    Raises:
        ResproutError: an unknown `values`, NaN or infinity, or weights that float16 cannot hold.
    """
    _check_values(values)
    state = {n: t.detach().cpu() for n, t in model.state_dict().items()}
    masks, rest, print_ = _layout(model, masks)
    codes = [gaps(mask) for mask in masks.values()]
    alive = [state[n][masks[n].cpu()] for n in masks]
    for name, weights in zip(masks, alive, strict=True):
        if not torch.isfinite(weights.to(VALUES[values])).all():
            raise ResproutError(f"{name!r} holds NaN, infinity, or values beyond {values}; nothing was written")
    for name in rest:
        if not torch.isfinite(state[name]).all():
            raise ResproutError(f"{name!r} holds NaN or infinity; nothing was written")
    tensors = {
        "places": torch.cat(codes),
        "values": torch.cat(alive).to(VALUES[values]),
        "rest": torch.cat([state[n].reshape(-1).float() for n in rest]) if rest else torch.zeros(0),
    }
    meta = _meta(model, masks, values, print_, [(len(c), len(a)) for c, a in zip(codes, alive, strict=True)])
    if provenance:
        meta["provenance"] = json.dumps(provenance, separators=(",", ":"))
    return serialize(tensors, meta | {"check": checksum(tensors, _claims(meta))})


def size(model: nn.Module, masks: Masks, values: str = "fp32") -> int:
    """Return the bytes that `encode` would give, whatever the values of the weights."""
    _check_values(values)
    masks, rest, print_ = _layout(model, masks)
    state = model.state_dict()
    codes = [len(gaps(mask)) for mask in masks.values()]
    alive = list(masks.counts.values())
    tensors = {
        "places": torch.empty(sum(codes), dtype=torch.uint8),
        "values": torch.empty(sum(alive), dtype=VALUES[values]),
        "rest": torch.empty(sum(state[n].numel() for n in rest)),
    }
    meta = _meta(model, masks, values, print_, list(zip(codes, alive, strict=True)))
    return len(serialize(tensors, meta | {"check": "0" * 64}))


def read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file in this format.

    Raises:
        CheckpointError: a file that is damaged, cut short, or of another format.
    """
    meta, tensors = read_safetensors(path)
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no file of format {FORMAT}; it says {meta.get('format')!r}")
    if set(tensors) != {"places", "values", "rest"} or meta.get("check") != checksum(tensors, _claims(meta)):
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    return meta, tensors


def decode(path: str | Path, model: nn.Module) -> dict[str, Tensor]:
    """Read a file into tensors named as in `model.state_dict()`, which is left as it is.

    Raises:
        CheckpointError: a file that is damaged, cut short, of another format, or of another model.
    """
    meta, tensors = read(path)
    state, which = model.state_dict(), set(json.loads(meta["which"]))
    names = [n for i, n in enumerate(state) if i in which]
    _, rest, print_ = _layout(model, Masks({n: torch.ones(state[n].shape, dtype=torch.bool) for n in names}))
    if meta.get("layout") != print_:
        raise CheckpointError(f"{path} belongs to another model: names or shapes differ from {type(model).__name__}")
    out, at, from_ = {}, 0, 0
    for (n_codes, n_values), name in zip(json.loads(meta["counts"]), names, strict=True):
        flat = torch.zeros(state[name].numel())
        where = places(tensors["places"][at : at + n_codes], len(flat))
        values = tensors["values"][from_ : from_ + n_values].float()
        if len(where) != len(values):
            raise CheckpointError(f"{path} is damaged: {name!r} has {len(where)} places and {len(values)} values")
        flat[where] = values
        out[name] = flat.view(state[name].shape)
        at, from_ = at + n_codes, from_ + n_values
    at = 0
    for name in rest:
        n = state[name].numel()
        out[name] = tensors["rest"][at : at + n].view(state[name].shape)
        at += n
    return out
