"""Distillation on pruned data: a teacher learns from all samples, its student from a few, by their labels and by the teacher.

Ben-Baruch, Botach, Kviatkovsky, Aggarwal, Medioni: "Distilling the Knowledge in Data Pruning", 2024, arXiv:2403.07854. Teacher
and student are of one architecture and begin with the same weights (self-distillation); the loss is (1 - alpha) cross-entropy +
alpha KL(teacher || student).
"""

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..core.run import Run
from ..core.steps import Mark, Rewind
from ..core.train import Optimizer, Train
from ..methods.objective.logit_kd import LogitKd
from ..methods.schedule.cosine import Cosine
from ._kind import Course, SampleScore
from ._steps import Draw, served, teach
from .random import Random
from .subset import check_share


@dataclass(frozen=True)
class KdDataPruning(Course):
    """The share `keep` is drawn after `scored_after` of the teacher's `epochs`; the student trains `student_epochs` on it.

    The student's epochs are counted in steps of the whole data, so that a small share means more passes. The fewer samples, the
    larger `alpha` should be; at 0 there is no teacher to ask, and this is ordinary training on a part.
    """

    keep: float = 0.1
    alpha: float = 0.9
    temperature: float = 1.0
    score: SampleScore = Random()  # noqa: RUF009
    epochs: int = 10
    scored_after: int = 2
    student_epochs: float = 10
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    key: ClassVar[str | None] = "kd-data-pruning"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run) -> None:
        """Train the teacher, which becomes the point "dense", and the student, with which the run ends.

        Raises:
            ResproutError: numbers that are out of range.
        """
        check_share(self.keep)
        if not (0 <= self.alpha <= 1 and self.temperature > 0):
            raise ResproutError(f"alpha is a share in [0, 1] and temperature above 0, got {self}")
        if not (self.epochs >= 1 and self.scored_after >= 0 and self.student_epochs > 0):
            raise ResproutError(f"teacher and student need epochs to learn in, got {self}")
        whole, lr = run.task, Cosine(self.lr, 0.0, warmup=0.05)
        steps = max(1, round(self.student_epochs * whole.steps_per_epoch))
        soon = min(self.scored_after, self.epochs)
        run.do(Mark("start"))
        teach(run, (0, soon, self.epochs), lr, self.optimizer, self.score.over_time)
        record = run.do(Draw(self.score, self.keep))
        teach(run, (soon, self.epochs, self.epochs), lr, self.optimizer)
        run.do(Mark("dense"))
        run.do(Rewind("start"))
        run.task = served(whole, record | {"trained": run.here["trained"]})
        objective = LogitKd(self.temperature, 1 - self.alpha) if self.alpha else None
        run.do(Train(steps, lr, self.optimizer, objective=objective))
        run.task = whole
