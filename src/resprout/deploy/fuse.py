"""Fewer operations that compute the same: norms into weights, activations into what stands before them.

What this file does not do: anything that is not exact in real arithmetic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from .program import Activated, Activation, Conv, Linear, Op, Scale


def fuse(
    ops: Sequence[Op], output: int, tensors: dict[str, Tensor], norms: Mapping[str, str]
) -> tuple[tuple[Op, ...], dict[str, str]]:
    """Return the operations that value `output` needs, fused, and the norms folded: weight -> prefix.

    Args:
        ops: as in a `Program`.
        output: the index of the result.
        tensors: what they use; a folded weight and bias is written here, in place of the unfolded.
        norms: the weight of a `Scale` -> the prefix of the batch norm that it was.
    """
    live = {output}
    for k in range(len(ops), 0, -1):
        if k in live:
            live.update(ops[k - 1].inputs)
    readers = Counter([output, *(i for k, op in enumerate(ops, 1) if k in live for i in op.inputs)])

    def before(op: Op) -> Op | None:
        """The operation that only `op` reads, if it has no activation yet."""
        i = op.inputs[0]
        found = ops[i - 1] if i and readers[i] == 1 else None
        return found if isinstance(found, Activated) and (found.slope, found.cap) == (1, math.inf) else None

    alive = {k: op for k, op in enumerate(ops, 1) if k in live}
    pairs = {}
    for k, op in alive.items():
        if isinstance(op, Scale) and op.weight in norms and isinstance(conv := before(op), Conv | Linear):
            module, _, leaf = conv.weight.rpartition(".")
            if ":" not in leaf and conv.bias in (None, f"{module}.bias"):  # both of one layer, as `folds` implies
                pairs[k] = (conv.weight, conv.bias, op.weight, op.bias)
    uses, couples = Counter(n for op in alive.values() for n in op.tensors), Counter(pairs.values())
    folded = {k: p for k, p in pairs.items() if couples[p] == uses[p[0]] == uses[p[2]] == uses[p[3]]}
    for weight, bias, scale, shift in set(folded.values()):
        _fold(tensors, weight, bias, scale, shift)

    where, done = {0: 0}, []
    for k, op in alive.items():
        last = where[op.inputs[0]]
        if k in folded:
            done[last - 1] = replace(done[last - 1], bias=folded[k][3])
        elif isinstance(op, Activation) and before(op):
            done[last - 1] = replace(done[last - 1], slope=op.slope, cap=op.cap)
        else:
            done.append(replace(op, inputs=tuple(where[i] for i in op.inputs)))
            last = len(done)
        where[k] = last
    return tuple(done), {p[0]: norms[p[2]] for p in folded.values()}


def _fold(tensors: dict[str, Tensor], weight: str, bias: str | None, scale: str, shift: str) -> None:
    """Put `scale` and `shift`, per output channel, into `weight` and (under the name `shift`) the bias."""
    w, s, t = tensors[weight].double(), tensors[scale].double(), tensors[shift].double()
    tensors[weight] = w * s.view(-1, *[1] * (w.dim() - 1))
    tensors[shift] = t if bias is None else tensors[bias].double() * s + t
