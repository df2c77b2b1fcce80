"""Information to noise: the share of a passage's words that are said for the first time.

Zhou, Croft: "Document quality models for web ad hoc retrieval", CIKM 2005; as a baseline in Chang et al., arXiv:2407.12170.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.kinds import Fidelity
from ._kind import Quality, Scores
from .collection import Collection


@dataclass(frozen=True)
class Itn(Quality):
    """Different words over words; an empty passage is worth nothing."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Return the shares."""
        return np.array([len(set(t)) / len(t) if t else 0.0 for t in collection.tokens])
