"""FLAP: the variance of each feature that a layer reads, times what the layer makes of it: the squared norm of its column.

An, Zhao, Yu, Tang, Wang: "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI 2024,
arXiv:2312.11983. Its bias compensation is `recover/mean_shift.py`: what fluctuates little is made up for by its mean.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.kinds import Fidelity, Score
from ...core.probe import Moments, Probe
from ._activations import channels
from ._rows import fill, following, makers, owner, readers, rows


@dataclass(frozen=True)
class Flap(Score):
    """Of a head the mean over its features. `standardise`: less their layer's mean, over its deviation, so that layers compare.

    Both kinds are ranked together by granularity="width". Channels that no group holds get 0.
    """

    standardise: bool = True
    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the fluctuations, the same for all weights of a row."""
        found = [(made, following(probe, made.parameter, readers(probe, group))) for group, made in makers(probe)]
        read = [(made, slot) for made, slot in found if slot is not None]
        modules, weights = dict(probe.model.named_modules()), probe.weights()
        seen: dict[str, Moments] = defaultdict(Moments)
        wide = {owner(s.parameter): weights[s.parameter].shape[s.dim] for _, s in read}

        def see(name: str, x: Tensor) -> None:
            of_all = channels(modules[name], x, wide[name] * int(getattr(modules[name], "groups", 1)))
            if of_all is not None:
                seen[name].add(of_all.flatten(1))

        if read:
            probe.watch(list({owner(slot.parameter) for _, slot in read}), see, inputs=True)
        worth = {}
        for name, moments in seen.items():
            slot = next(s for _, s in read if owner(s.parameter) == name)
            columns = weights[slot.parameter].double().movedim(slot.dim, 0).flatten(1).square().sum(1)
            value = moments.result()[1].reshape(-1, len(columns)).mean(0) * columns
            off = value.std(correction=0)
            worth[slot.parameter] = (value - value.mean()) / (off or 1.0) if self.standardise else value
        numbers = {n: torch.zeros(len(w), dtype=torch.float64) for n, w in rows(probe).items()}
        for made, slot in read:
            each = worth[slot.parameter].cpu()[slot.index].mean(1)
            numbers[made.parameter][made.index] = each[:, None].expand(made.index.shape)
        return fill(probe, numbers)
