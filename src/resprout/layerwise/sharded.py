"""A model whose blocks are sharded over processes by FSDP2: a block is whole on every rank while it is worked on.

What this file does not do: agree on what is cut. Every rank sees its own data; Gram matrices and norms are averaged over the
ranks (`numerics/curvature.py`), and so all choose the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .walk import Shelf


class Sharded(Shelf):
    """Blocks that are `FSDPModule`s."""

    def take(self, name: str, block: Any) -> None:
        """Gather the block's weights, and keep them whole over its forward passes."""
        block.set_reshard_after_forward(False)
        block.unshard()

    def put_back(self, name: str, block: Any, changed: bool) -> None:
        """Shard the block again, with the values that it has now."""
        from torch.distributed.tensor import distribute_tensor

        block.unshard()
        whole = {n: p.detach().clone() for n, p in block.named_parameters()} if changed else {}
        block.reshard()
        block.set_reshard_after_forward(True)
        own = dict(block.named_parameters())
        with torch.no_grad():
            for name_, tensor in whole.items():
                p: Any = own[name_]
                p.copy_(distribute_tensor(tensor, p.device_mesh, p.placements))


def is_sharded(block: nn.Module) -> bool:
    """Whether FSDP2 holds the block."""
    return hasattr(block, "unshard") and hasattr(block, "reshard")
