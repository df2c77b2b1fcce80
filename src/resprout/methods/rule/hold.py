"""Hold: the masks stand still.

Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
arXiv:1506.02626 (retraining under fixed masks).
"""

from dataclasses import dataclass
from typing import ClassVar

from ...core.kinds import Fidelity, Rule


@dataclass(frozen=True)
class Hold(Rule):
    """Change nothing."""

    fidelity: ClassVar[Fidelity] = "identity-checked"
