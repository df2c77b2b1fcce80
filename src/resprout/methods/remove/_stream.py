"""How far the residual stream moves over blocks in a row: what depth pruning reads off one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...core.probe import Probe, first_tensor, share

Far = Callable[[Tensor, Tensor], Tensor]


def apart(probe: Probe, blocks: Sequence[str], far: Far, spans: Sequence[int], last: bool) -> dict[int, list[float]]:
    """Return span n -> for each block that begins a run of n, the mean of `far` of what enters the run and what leaves it.

    Args:
        probe: with data.
        blocks: paths of modules that run one after the other, hidden states (samples, tokens, features) first.
        far: a distance, the mean over all but the features.
        spans: each from 1 to the number of blocks.
        last: look at the last token of each sample; else at all.
    """
    sums = {n: torch.zeros(len(blocks) - n + 1, dtype=torch.float64) for n in spans}
    kept: dict[int, Tensor] = {}
    samples = 0

    def look(name: str, x: Tensor) -> None:
        nonlocal samples
        at = blocks.index(name) if name else len(blocks)
        kept[at] = x[:, -1].clone() if last else x
        kept.pop(at - max(spans) - 1, None)
        for n in spans:
            if n <= at:
                sums[n][at - n] += float(far(kept[at - n], kept[at])) * len(x)
        if not name:
            kept.clear()
            samples += len(x)

    end = probe.model.get_submodule(blocks[-1])
    handle = end.register_forward_hook(lambda module, args, out: look("", first_tensor(out).detach()))
    try:
        probe.watch(blocks, look, inputs=True)
    finally:
        handle.remove()
    return {n: share(total / samples).tolist() for n, total in sums.items()}
