"""Collection-document distance: how far a passage's words are from those of the whole collection; far ones go.

Zhou, Croft: "Document quality models for web ad hoc retrieval", CIKM 2005; as a baseline in Chang et al., arXiv:2407.12170.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ._kind import Quality, Scores
from .collection import Collection


@dataclass(frozen=True)
class Cdd(Quality):
    """- KL(collection || passage), the passage's words mixed with the collection's: `smooth` of them are the collection's."""

    smooth: float = 0.2
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Return the distances, negative.

        Raises:
            ResproutError: `smooth` is no share.
        """
        if not 0 < self.smooth <= 1:
            raise ResproutError(f"smooth is a share in (0, 1] of the collection's words, got {self.smooth:g}")
        whole = Counter(word for tokens in collection.tokens for word in tokens)
        total = max(1, sum(whole.values()))
        return np.array([-self._distance(Counter(t), len(t), whole, total) for t in collection.tokens])

    def _distance(self, counts: Counter[str], length: int, whole: Counter[str], total: int) -> float:
        """A word that the passage lacks has `smooth` of its probability; the sum over those is done at once."""
        said = sum(whole[w] for w in counts) / total
        found = -(1 - said) * math.log(self.smooth)
        for word, count in counts.items():
            p = whole[word] / total
            found += p * math.log(p / ((1 - self.smooth) * count / length + self.smooth * p))
        return found
