"""Damage: how similar each layer's attention maps are to the dense network's, on the run's probe batches.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675
(the search space of its controller: layers under a threshold, or the worst one).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.kinds import Fidelity, Priority, Searcher
from ...core.run import Run
from ..priority.attention_ssim import AttentionSsim


@dataclass(frozen=True)
class Damage(Searcher):
    """Findings: "similarity" of each layer, and "layers": those under `threshold` that have room (else the worst)."""

    priority: Priority = AttentionSsim()  # noqa: RUF009
    threshold: float = 0.0
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run) -> dict[str, Any]:
        """Compare."""
        sparse = run.probe()
        sparse.training = False
        dense = sparse.at_anchor()
        mode, dense.training = dense.training, False
        try:
            similarity = self.priority(dense, sparse)
        finally:
            dense.training = mode
        room = [n for n in similarity if run.masks.counts[n] < run.masks.sizes[n]]
        if not room:
            return {"similarity": similarity, "layers": []}
        low = [n for n in room if similarity[n] < self.threshold]
        return {"similarity": similarity, "layers": low or [min(room, key=lambda n: similarity[n])]}
