"""Save and load a sparse network as one small file that any safetensors reader opens.

What this file does not do: the format itself (`encoding.py`, docs/file-format.md).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import store
from ..core.errors import CheckpointError, ResproutError
from ..core.hold import unwrap
from ..core.masks import Masks
from ..graph.shape import Shape, reshape, shape_of
from . import encoding
from .folding import restored
from .trace import Traced, lower


def save(
    path: str | Path,
    model: nn.Module,
    masks: Masks | None = None,
    *,
    values: str = "fp16",
    example: Tensor | Traced | None = None,
    data: Sequence[Any] | None = None,
    budget: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    report: Callable[[str, float], None] | None = None,
) -> int:
    """Write the network's alive weights and everything else of its `state_dict` to one file; atomic.

    Args:
        path: the file, replaced whole.
        model: the network.
        masks: which weights are alive; default those that are not zero.
        values: "fp32", "fp16", "int8" or "int4", the type of the weights. The rest is float32 with "fp32", else float16.
        example: a batch of inputs (or what `lower` made of one): the file then carries the program, and norms are folded.
        data: a list of batches for "int8" and "int4": weights are rounded so that the layers' outputs change least.
        budget: noted in the file's metadata.
        provenance: JSON-able facts, noted too.
        report: called with the name and the relative error of each weight that is rounded to integers.

    Returns:
        its size in bytes.

    Raises:
        ResproutError: NaN or infinite weights, values that the type cannot hold, or a full disk.
        TraceError: with `example`, a network that devices do not know.
    """
    model = unwrap(model)
    traced = example if isinstance(example, Traced | None) else lower(model, example)
    notes = {} if budget is None else {"budget": budget}
    if (shape := shape_of(model)) is not None:
        notes["shape"] = shape.to_text()
    if provenance is not None:
        notes["provenance"] = _json(provenance)
    alive = Masks.of(model) if masks is None else masks
    whole = encoding.archive(model, alive, values, traced, notes, data)
    if report is not None:
        for name, error in whole.errors.items():
            report(name, error)
    encoded = encoding.encode(whole)
    store.write(Path(path), encoded)
    return len(encoded)


def _json(provenance: Mapping[str, Any]) -> str:
    try:
        return json.dumps(provenance, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResproutError(f"provenance must be JSON-able facts: {error}") from error


def load(path: str | Path, into: nn.Module) -> nn.Module:
    """Read a file made by `save` into a model of the same architecture, and return the model.

    From a file with a program come folded norms: afterwards the model computes the same in eval mode, its norms only add.
    From a file of a network that has been shrunk, the dense model loses the same channels, heads and layers.

    Args:
        path: the file.
        into: receives all weights; untouched if anything is wrong. The dense model, or one shrunk in the same way.

    Raises:
        CheckpointError: a file that is damaged, cut short, of another format, or of another model.
    """
    model = unwrap(into)
    archive = encoding.read(path)
    shape = Shape.from_text(archive.metadata["shape"]) if "shape" in archive.metadata else None
    if shape is not None and shape_of(model) is None:
        try:
            _fill(path, reshape(copy.deepcopy(model), shape), archive)  # untouched if anything is wrong
        except CheckpointError:
            raise
        except ResproutError as error:
            raise CheckpointError(f"{path} belongs to another model: {error}") from error
        reshape(model, shape)
    elif shape != shape_of(model):
        raise _foreign(path, model, "other channels are present")
    _fill(path, model, archive)
    return into


def _fill(path: str | Path, model: nn.Module, archive: encoding.Archive) -> None:
    """Give a model of the right shape the values of a file."""
    own = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    for name, weight in archive.weights.items():  # before anything large is made
        if name in own and tuple(own[name].shape) != weight.shape:
            raise _foreign(path, model, f"{name!r} is of shape {tuple(own[name].shape)}, not {weight.shape}")
    state = restored(archive, model)
    lacks = [n for n in own if n not in state and n not in archive.unused]
    odd = [n for n, t in state.items() if n not in own or own[n].shape != t.shape]
    if lacks or odd:
        raise _foreign(path, model, f"{(lacks or odd)[0]!r} is {'not in the file' if lacks else 'another or absent'}")
    with torch.no_grad():
        model.load_state_dict(state, strict=False)


def _foreign(path: str | Path, model: nn.Module, why: str) -> CheckpointError:
    return CheckpointError(f"{path} belongs to another model: in {type(model).__name__} {why}")
