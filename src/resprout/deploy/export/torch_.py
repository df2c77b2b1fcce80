"""A file as a plain safetensors `state_dict`: dense float32 tensors under the model's own names.

What this file does not do: the model's class; whoever loads the tensors has it.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save as serialize
from torch import nn

from ...core import store
from ...core.errors import ResproutError
from ...core.hold import unwrap
from ..encoding import Archive
from ..folding import restored


def to_torch(path: str | Path, archive: Archive, model: nn.Module | None = None) -> int:
    """Write the tensors so that `model.load_state_dict(safetensors.torch.load_file(path))` takes them; atomic.

    Args:
        path: the file, replaced whole.
        archive: the network's tensors, see `encoding.read`.
        model: a model of its class, needed where norms are folded: they become identities (but for their bias) with its
            names and epsilons. It is left as it is.

    Returns:
        its size in bytes.

    Raises:
        ResproutError: a folded file without a model, or a model that the file does not fit.
    """
    if model is None and archive.program is not None:
        raise ResproutError(
            "the file's norms are folded: pass the model whose norms they were, or save without example="
        )
    state = archive.tensors() if model is None else restored(archive, unwrap(model))
    own = {} if model is None else unwrap(model).state_dict()
    for name, tensor in state.items():
        if model is not None and (name not in own or own[name].shape != tensor.shape):
            raise ResproutError(
                f"{type(model).__name__} has no {name!r} of shape {tuple(tensor.shape)}, as the file has"
            )
    data = serialize({n: t.float().contiguous().clone() for n, t in state.items()})  # clones, for tied tensors
    store.write(Path(path), data)
    return len(data)
