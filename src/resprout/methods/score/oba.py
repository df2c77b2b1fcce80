"""OBA: what the loss changes by when a channel leaves, to second order, from Hessian-vector products.

Sun, Fang, Wang, Jiang, Kong, Hu, Fang, Xu: "Optimal Brain Apoptosis", ICLR 2025, arXiv:2502.17941. Scope "all" is the paper's;
scope "group" is ours and nearer to what a removal costs. Single weights: `score/oba_weight.py`.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ._apoptosis import attribution, spread, units
from ._shares import shares


@dataclass(frozen=True)
class Oba(Score):
    """Of a unit with weights w_g. Biases and norms that leave with it are not counted.

    "all": its part of w^T H w / 2, the weights of all others included, as an absolute share of the mean of its group.
    "group": what leaving alone costs, w_g^T H w_g / 2 - g^T w_g; one Hessian-vector product a unit and batch.
    """

    scope: Literal["all", "group"] = "all"
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "oba"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __post_init__(self) -> None:
        if self.scope not in ("all", "group"):
            raise ResproutError(f"scope must be 'all' or 'group', got {self.scope!r}")

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the numbers, the same for all weights of a row."""
        found, weights = list(units(probe)), {n: w.cpu() for n, w in probe.weights().items()}
        if self.scope == "group":
            g, own = {n: g.cpu() for n, g in probe.gradients().items()}, probe.weights()
            at = [{n: own[n] * p.to(own[n].device) for n, p in u.places.items()} for u in found]
            first = [sum(float((g[n] * weights[n])[p].sum()) for n, p in u.places.items()) for u in found]
            cost = probe.hessian_forms(at) / 2 - torch.tensor(first).double()
            return spread(probe, list(zip(found, cost.tolist(), strict=True)))
        parts = {n: a.cpu() for n, a in attribution(probe).items()}
        groups = defaultdict(list)
        for u in found:
            groups[u.group].append((u, abs(sum(float(parts[n][p].sum()) for n, p in u.places.items()))))
        every = [list(zip(*members, strict=True)) for members in groups.values()]
        shared = [(us, shares(torch.tensor(numbers), "mean").tolist()) for us, numbers in every]
        return spread(probe, [pair for us, numbers in shared for pair in zip(us, numbers, strict=True)])
