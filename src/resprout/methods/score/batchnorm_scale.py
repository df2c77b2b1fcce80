"""BatchNorm scale: |gamma| of the norm that follows the layer, by which a channel is multiplied.

Liu, Li, Shen, Huang, Yan, Zhang: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
arXiv:1708.06519. The paper trains with an L1 penalty on gamma first; put that into the loss if it is wanted.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._norms import next_norms, scales
from ._rows import alone, fill, following, makers, rows


@dataclass(frozen=True)
class BatchnormScale(Score):
    """|gamma|, of batch, layer, group or RMS norms; a row that no norm follows counts as one of scale 1, which is none.

    The norm is the next of the row's group (`probe.groups`); without groups, the next of the model's modules before any
    other layer.
    """

    rows: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return |gamma|, the same for all weights of a row.

        Raises:
            ResproutError: no layer has a norm.
        """
        gammas = {n: w.detach().abs() for n, w in scales(probe).items()}
        found = {n: torch.ones_like(w[:, 0]) for n, w in rows(probe).items()}
        matched = {n: norm for n, norm in next_norms(probe).items() if n in alone(probe)}
        for name, norm in matched.items():
            found[name] = gammas[norm]
        norms = {f"{n}.weight" if n else "weight": g for n, g in gammas.items()}
        some = bool(matched)
        for group, slot in makers(probe):
            norm = following(probe, slot.parameter, [s for s in group.slots if s.parameter in norms])
            if norm is not None:
                some = True
                unit = norms[norm.parameter][norm.index.to(found[slot.parameter].device)].mean(1)
                found[slot.parameter][slot.index] = unit[:, None].to(found[slot.parameter])
        if not some:
            raise ResproutError(
                f"no norm with a scale follows a layer of {type(probe.model).__name__}: "
                "use score='filter_norm' or another that needs none"
            )
        return fill(probe, found)
