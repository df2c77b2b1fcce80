"""Group sum: all that a score says of the weights of one unit, wherever it is made or read, as a share of its group.

Wang, Rachwan, Günnemann, Charpentier: "Structurally Prune Anything: Any Architecture, Any Framework, Any Time",
arXiv:2403.18955 (its group importance, which makes units of different groups comparable; by their group's sum or mean).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ...core import select
from ...core.kinds import Fidelity, Score
from ...core.probe import Probe
from ...core.roles import rows as side_by_side
from ._rows import fill, makers, rows
from ._shares import shares
from .magnitude import Magnitude


@dataclass(frozen=True)
class GroupSum(Score):
    """The sum of `score` over a unit's slots, or over a row that no group knows, divided by the `by` of the like.

    By their sum, units of a narrow group count more than those of a wide one; by their mean, the same.
    """

    score: Score = Magnitude()  # noqa: RUF009
    by: Literal["sum", "mean"] = "sum"
    rows: ClassVar[bool] = True
    key: ClassVar[str | None] = "spa"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, probe: Probe) -> dict[str, Tensor]:
        """Return the sums, the same for all weights of a row."""
        worth = {n: select.dense(s) for n, s in self.score(probe).items()}
        numbers = {n: shares(s.float().sum(1), self.by) for n, s in rows(probe, worth).items()}
        for group, made in makers(probe):
            slots = [s for s in group.slots if s.parameter in worth]
            share = shares(side_by_side(worth, slots).sum(1), self.by)
            numbers[made.parameter][made.index.to(share.device)] = share[:, None].expand(made.index.shape)
        return fill(probe, numbers)
