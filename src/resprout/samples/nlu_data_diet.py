"""Data diet: after an epoch on all samples train on the hardest share of them, and ask again which these are every few epochs.

Attendu, Corbeil: "NLU on Data Diets: Dynamic Data Subset Selection for NLP Classification Tasks", SustaiNLP 2023,
arXiv:2306.03208. `renew=False` is the static diet that it is compared with; the joint score of intents and slots is not here.
The optimizer begins anew at each draw (momentum is lost), its learning rate goes on.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..core.run import Run
from ..core.train import Optimizer
from ..methods.schedule.cosine import Cosine
from ._kind import Course, SampleScore
from ._steps import Draw, Notice, served, teach
from .el2n import El2n
from .subset import check_share


@dataclass(frozen=True)
class NluDataDiet(Course):
    """Of `epochs`, the `first` are passes over all samples; each of the others is a pass over the share `keep`.

    The share is drawn anew every `every` epochs by the network as it is then (`renew=False`: once), without the very best
    `offset`, which may be wrong labels. `keep=1` is ordinary training.
    """

    keep: float = 0.5
    every: int = 1
    first: int = 1
    renew: bool = True
    offset: float = 0.0
    score: SampleScore = El2n()  # noqa: RUF009
    epochs: int = 10
    lr: float = 0.1
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    key: ClassVar[str | None] = "nlu-data-diet"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run) -> None:
        """Train.

        Raises:
            ResproutError: epochs that do not add up, or a share that is none.
        """
        check_share(self.keep, self.offset)
        if not (0 <= self.first <= self.epochs and self.epochs >= 1 and self.every >= 1):
            raise ResproutError(
                f"a diet has epochs, the first of them on all samples, and draws every so many; got {self}"
            )
        whole, lr = run.task, Cosine(self.lr, 0.0, warmup=0.05)
        begins = range(self.first, self.epochs, self.every if self.renew else self.epochs)
        full = self.first if self.keep < 1 else self.epochs
        teach(run, (0, full, self.epochs), lr, self.optimizer, self.score.over_time)
        for begin in begins if self.keep < 1 else ():
            record = run.do(Draw(self.score, self.keep, self.offset))
            run.task = served(whole, record)
            end = min(begin + begins.step, self.epochs)
            teach(run, (begin, end, self.epochs), lr, self.optimizer)
            run.task = whole
            if self.score.over_time:
                run.do(Notice())
