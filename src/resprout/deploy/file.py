"""Save and load a sparse network as one small file that any safetensors reader opens.

What this file does not do: entropy coding, integer values, or networks without their class (see `encoding.py`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..core import store
from ..core.hold import unwrap
from ..core.masks import Masks
from . import encoding


def save(path: str | Path, model: nn.Module, masks: Masks | None = None, *, values: str = "fp16") -> int:
    """Write the network's alive weights and everything else of its `state_dict` to one file; atomic.

    Args:
        path: the file, replaced whole.
        model: the network.
        masks: which weights are alive; default those that are not zero.
        values: "fp32" or "fp16", the type of the weights (the rest stays float32).

    Returns:
        its size in bytes.

    Raises:
        ResproutError: NaN or infinite weights, values that the type cannot hold, or a full disk.
    """
    model = unwrap(model)
    data = encoding.encode(model, Masks.of(model) if masks is None else masks, values)
    store.write(Path(path), data)
    return len(data)


def load(path: str | Path, into: nn.Module) -> nn.Module:
    """Read a file made by `save` into a model of the same architecture, and return the model.

    Args:
        path: the file.
        into: receives all weights; untouched if anything is wrong.

    Raises:
        CheckpointError: a file that is damaged, cut short, of another format, or of another model.
    """
    model = unwrap(into)
    state = encoding.decode(path, model)
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
    return into
