"""Fluency: how likely each word is after the one before, by the pairs of words of all other passages.

A perplexity in place of that of a large model, which Chang et al., arXiv:2407.12170 (SIGIR 2024), take from GPT-2 and T5. Ours.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ._kind import Quality, Scores
from .collection import Collection


@dataclass(frozen=True)
class Fluency(Quality):
    """Mean log probability of a word after another, `backoff` of it by the word alone; the passage itself is left out."""

    backoff: float = 0.3
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Return the means; a passage of fewer than two words is as bad as can be.

        Raises:
            ResproutError: `backoff` is no share.
        """
        if not 0 < self.backoff <= 1:
            raise ResproutError(f"backoff is a share in (0, 1] of the probability, got {self.backoff:g}")
        pairs = Counter(p for t in collection.tokens for p in pairwise(t))
        single = Counter(w for t in collection.tokens for w in t)
        total, vocabulary = sum(single.values()), len(single) + 1
        floor = math.log(self.backoff / (total + vocabulary))
        found = []
        for tokens in collection.tokens:
            own, mine = Counter(pairwise(tokens)), Counter(tokens)
            rest, value = total - len(tokens), 0.0
            for (a, b), count in own.items():
                alone = (single[b] - mine[b] + 1) / (rest + vocabulary)
                before = single[a] - mine[a]
                after = (pairs[a, b] - own[a, b]) / before if before else 0.0
                value += count * math.log((1 - self.backoff) * after + self.backoff * alone)
            found.append(value / (len(tokens) - 1) if len(tokens) > 1 else floor)
        return np.array(found)
