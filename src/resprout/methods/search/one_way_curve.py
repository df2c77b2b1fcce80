"""One-way curve: cut forks of the dense network once to several sparsities, let each recover briefly, and measure.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675 (its
one-shot curve, on which the cliff is found; there each point is fine-tuned for up to 400 epochs).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.granularity import Units
from ...core.kinds import Allocation, Cliff, Fidelity, Recover, Score, Searcher
from ...core.run import Run
from ...core.steps import Prune
from ..allocate.global_ import Global
from ..allocate.lamp import Lamp
from ..cliff.two_segment import TwoSegment
from ..recover.finetune import Finetune
from ..score.magnitude import Magnitude


@dataclass(frozen=True)
class OneWayCurve(Searcher):
    """Findings: "curve", a list of (sparsity, validation accuracy), and "cliff", a sparsity or None."""

    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998)
    steps: int = 40
    recover: Recover = Finetune()  # noqa: RUF009
    score: Score = Magnitude()  # noqa: RUF009
    allocate: Allocation | None = None
    cliff: Cliff = TwoSegment()  # noqa: RUF009
    fidelity: ClassVar[Fidelity] = "smoke-tested"

    def __call__(self, run: Run) -> dict[str, Any]:
        """Measure, and find the cliff."""
        structured = isinstance(run.granularity, Units)
        curve, allocate = [], self.allocate or (Global() if structured else Lamp())
        for i, sparsity in enumerate(self.sparsities):
            run.report("search", {"step": i + 1, "steps": len(self.sparsities), "sparsity": sparsity})
            fork = run.fork()
            units = fork.units
            least = 1 - min(1.0, sum(map(bool, units.counts.values())) / units.total)  # one of each is left
            fork.do(Prune(min(sparsity, least), self.score, allocate, floor=1))
            for step in self.recover(self.steps):
                fork.do(step)
            run.searched += fork.trained - run.trained
            curve.append((fork.masks.sparsity if structured else sparsity, fork.evaluate()))
        return {"curve": curve, "cliff": self.cliff([s for s, _ in curve], [a for _, a in curve])}
