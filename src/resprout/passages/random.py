"""Random: passages are dropped by chance, the baseline.

Ours; as a baseline in Chang, Mishra, Macdonald, MacAvaney: "Neural Passage Quality Estimation for Static Pruning", SIGIR 2024,
arXiv:2407.12170.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.kinds import Fidelity
from ..core.run import mix
from ._kind import Quality, Scores
from .collection import Collection


@dataclass(frozen=True)
class Random(Quality):
    """Uniform in [0, 1)."""

    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Return the numbers."""
        return np.random.default_rng(mix(seed, "passages")).random(len(collection.passages))
