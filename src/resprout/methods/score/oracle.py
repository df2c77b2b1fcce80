"""Oracle: how the loss changes when a unit really leaves, or really comes back; one trial for each unit, nothing estimated.

Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
arXiv:1611.06440 (its oracle-loss, with the sign; of the dead the same read backwards is ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.masks import Masks
from ...core.probe import Probe, share
from ...core.units import Group, living, spread
from ._rows import alike, fill, made_by, rows


@dataclass(frozen=True)
class Oracle(Score):
    """Loss without the unit less loss with it: of whole layers where they are known, else of channels, heads or rows.

    Dead weights are tried with their value in the dense network, biases and norms as they stand. A trial is a forward pass over
    all batches: right for a few layers or heads, dear for hundreds of channels.
    """

    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    @torch.no_grad()
    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the differences, the same for all weights that make the unit."""
        groups, masks, values = alike(probe), probe.masks, probe.values()
        alive, now = Masks(living(groups, masks)), self.loss(probe, probe.weights())
        whole, numbers = self.spread(groups, alive, masks), {n: w.new_zeros(len(w)) for n, w in rows(probe).items()}
        for group in groups:
            worth = torch.zeros(len(group))
            for i, lives in enumerate(alive[group.name].tolist()):
                other = alive[group.name].index_fill(0, torch.tensor(i), not lives)
                there = self.spread(groups, Masks(dict(alive) | {group.name: other}), masks)
                tried = masks & there if lives else masks | (there - whole)
                loss = self.loss(probe, {n: values[n] * m for n, m in tried.items()})
                worth[i] = loss - now if lives else now - loss
            for slot in made_by(probe, group):
                into = numbers[slot.parameter]
                into[slot.index.to(into.device)] = worth.to(into)[:, None].expand(slot.index.shape)
        return fill(probe, numbers)

    def spread(self, groups: Sequence[Group], alive: Masks, masks: Masks) -> Masks:
        """Return the masks of units that are alive and nothing else dead."""
        found = spread(groups, alive, {n: m.shape for n, m in masks.items()})
        return Masks({n: m.to(masks[n].device) for n, m in found.items()})

    def loss(self, probe: Probe, weights: dict[str, Tensor]) -> float:
        """Return the mean loss over the batches."""
        with probe.aside():
            return float(share(torch.stack([probe.loss(b, weights) for b in probe.data()]).mean()))
