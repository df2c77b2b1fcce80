"""The abstract kinds of method. A method is one file with one frozen dataclass of one of these kinds.

Its fields are its hyperparameters with the paper's defaults, its `repr` is its configuration, its file's path is its
name, and its docstring's second paragraph is its citation. Nothing concrete is overridden; only the empty hooks of
`Rule` may be filled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Generator, Tensor, nn

from . import select
from .masks import Masks
from .units import Group

if TYPE_CHECKING:
    from .budget import Budget
    from .probe import Probe
    from .run import Run

Fidelity = Literal["paper-checked", "identity-checked", "smoke-tested"]
Wishes = Mapping[str, float]
Slots = dict[str, Tensor]


@dataclass(frozen=True)
class Method(ABC):
    """What all kinds share: facts that `resprout list` shows."""

    fidelity: ClassVar[Fidelity]
    key: ClassVar[str | None] = None  # its key in the catalogue of systems, where it has one


class Score(Method):
    """What each weight is worth: higher is kept, or comes back first. Finite; the order is all that matters.

    Where weights have different prices, their worth is the score to the power of `order`: 2 for a magnitude, whose square
    is what the layer loses. A score that by nature is one number per output channel fills each row with it, and says `rows`.
    """

    order: ClassVar[int] = 1
    rows: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, probe: Probe) -> Mapping[str, select.Score]:
        """Return a score of the weight's shape for every prunable weight, dead ones included."""


@dataclass(frozen=True)
class Scores(Mapping[str, select.Score]):
    """What an allocation sees: all scores, which weights compete, and which are settled already.

    Pruning lets the living compete and settles none; regrowth settles the living and lets the dead compete. Names are those
    of tensors, or of groups where units are coupled channels; `order` and `rows` are those of the score, and `makes` the
    (weight, dimension) that make units.
    """

    tensors: Mapping[str, select.Score]
    among: Masks | None = None
    settled: Masks | None = None
    order: int = 1
    rows: bool = False
    groups: tuple[Group, ...] = ()
    makes: frozenset[tuple[str, int]] = frozenset()

    def __getitem__(self, name: str) -> select.Score:
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def sizes(self) -> dict[str, int]:
        """Weights in all, per tensor."""
        return {name: score.numel() for name, score in self.tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tuple(score.shape) for name, score in self.tensors.items()}

    @property
    def bounds(self) -> tuple[dict[str, int], dict[str, int]]:
        """The fewest and the most weights each tensor can have alive: the settled, and those that compete besides."""
        lower = dict.fromkeys(self.tensors, 0) if self.settled is None else self.settled.counts
        competing = self.sizes if self.among is None else self.among.counts
        return lower, {n: lower[n] + competing[n] for n in lower}

    def competing(self, name: str) -> Tensor:
        """Return the scores of `name` that compete, flat, as float32; those of a sharded tensor are gathered."""
        flat, among = select.dense(self.tensors[name]), None if self.among is None else self.among[name]
        if hasattr(flat, "full_tensor"):
            flat = flat.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
            among = among.full_tensor() if hasattr(among, "full_tensor") else among  # pyright: ignore
        return flat.reshape(-1) if among is None else flat[among]


class Allocation(Method):
    """How many weights each tensor may have alive. One that looks at shapes only, and at no score, says `by_shape`."""

    by_shape: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scores: Scores, prices: Mapping[str, float], allowance: float) -> Wishes:
        """Return the number of weights wished alive per tensor, in all (settled ones included).

        Args:
            scores: what competes.
            prices: the cost of one weight of each tensor, in the unit of `allowance`.
            allowance: what all weights alive may cost together.

        The core scales the wishes by one factor to the exact total within the bounds (`select.apportion`).
        """


class Fill(Method):
    """The values that reborn weights start with."""

    @abstractmethod
    def __call__(self, weight: Tensor, anchor: Tensor | None, generator: Generator) -> Tensor:
        """Return a tensor of the weight's shape, of which the core takes the reborn places.

        Args:
            weight: the weight as it stands.
            anchor: the dense network's own weight, where one is known.
            generator: the only source of randomness.
        """


class Pick(ABC):
    """Which weights of a matrix stay, decided a run of columns at a time (see `granularity.Granularity.pick`)."""

    step: int = 1  # runs begin at multiples of it

    @abstractmethod
    def __call__(self, scores: Tensor, first: int) -> Tensor:
        """Return bool of the form of `scores`, (outputs, columns of the run); `first` is the first of these columns."""


class Solver(Method):
    """New values for what stays of a layer, so that its outputs change least: min |(W - V) X|^2 over V within the masks."""

    @abstractmethod
    def prepare(self, gram: Tensor) -> Tensor:
        """Return what is needed of a Gram matrix, once for all layers that read the same inputs; `gram` may be overwritten.

        Args:
            gram: X X^T of the inputs, float32 (columns, columns); any positive multiple of it is as good.

        Raises:
            ResproutError: it is not positive.
        """

    @abstractmethod
    def __call__(self, weight: Tensor, prepared: Tensor, pick: Pick) -> Tensor:
        """Return the new weight, float32 (outputs, columns), zero where it has been cut.

        Args:
            weight: float32 (outputs, columns).
            prepared: what `prepare` has returned.
            pick: what stays; it is asked for every run of columns once, from left to right.
        """


class Schedule(Method):
    """A value that moves from `start` to `end` while progress t moves from 0 to 1."""

    @abstractmethod
    def __call__(self, t: float) -> float:
        """Return the value at progress `t` in [0, 1]; outside it is that of the nearer end."""


class Rule(Method):
    """What happens to masks during training. The hooks are empty; fill those that are needed.

    A rule keeps no state of its own: tensors that must outlive a step are in `run.slots`, which is checkpointed. `Rule()`
    itself lets the masks stand still.
    """

    def begin(self, run: Run, steps: int) -> None:
        """Before the first of `steps` steps (not called again when a run resumes within them)."""

    def after_backward(self, run: Run, step: int, steps: int) -> None:
        """After the gradients of step `step` (from 0) and before the optimizer uses them."""

    def after_step(self, run: Run, step: int, steps: int) -> None:
        """After the optimizer's step `step` (from 0)."""

    def end(self, run: Run, steps: int) -> None:
        """After the last step."""


class Step(ABC):
    """A verb: one thing done to a run, as a frozen dataclass (see `steps.py`)."""

    @abstractmethod
    def __call__(self, run: Run) -> dict[str, Any]:
        """Do it, and return the JSON-able facts that the trace keeps."""


class Searcher(Method):
    """What must try candidates: it works on forks of the run and returns JSON-able findings."""

    @abstractmethod
    def __call__(self, run: Run) -> dict[str, Any]:
        """Try, and return the findings; `run` itself changes only through `run.set_masks`."""


class Remover(Method):
    """Which units leave, found by taking them out of the network and looking: what no score of single weights can say."""

    @abstractmethod
    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        """Take units out of the run's network until `budget` is met, and return JSON-able findings.

        Masks change by `run.set_masks` alone, and only lose; what stays may be solved anew in place. The units are in
        `run.groups`.

        Raises:
            BudgetError: nothing more can leave, and the budget is not met.
        """


class Objective(Method):
    """What training makes small, in place of the task's own loss."""

    @abstractmethod
    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Return a scalar, differentiable in what `model` computes with.

        Args:
            run: the dense network is its point "dense" (`outputs.taught`).
            model: the network under training, maybe wrapped: what is called.
            batch: of the training data, on the run's device.
        """


class Gate(Method):
    """A mask that is learned: trained scores, one per unit, decide in each forward pass what passes. The hook may stay empty."""

    @abstractmethod
    def start(self, worth: Tensor, generator: Generator) -> Tensor:
        """Return the scores that training starts with.

        Args:
            worth: of the form of a tensor's units: the share of all units whose weights have a smaller norm, in [0, 1].
            generator: the only source of randomness.
        """

    @abstractmethod
    def __call__(
        self, scores: Mapping[str, Tensor], keep: int, top: Callable[[Mapping[str, Tensor], int], Masks], state: Slots
    ) -> dict[str, Tensor]:
        """Return name -> what passes of each unit, in [0, 1], differentiable in the scores; in the end the best are kept.

        Args:
            scores: name (of a tensor or a group) -> the scores of its units.
            keep: units that may pass by now.
            top: chooses, exactly, the best so many by any scores.
            state: of the same form, zeros at first, kept from step to step; empty while nothing is trained.
        """

    def penalty(self, scores: Mapping[str, Tensor], t: float) -> Tensor | float:
        """What is added to the loss at progress `t`."""
        return 0.0


class Tune(Method):
    """What training changes: some of the network's tensors, and small ones beside a weight that end in it (adapters)."""

    @abstractmethod
    def own(self, model: nn.Module) -> Collection[str]:
        """Return the names of the parameters that are trained themselves."""

    @abstractmethod
    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the tensors to be trained beside the prunable weight `name`, by short names; none for no adapter."""

    @abstractmethod
    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """Return what the network computes with in place of `weight`, and what it becomes in the end.

        Args:
            weight: as it was before, frozen.
            mask: bool of its shape, of the living; what is made of the dead is dropped in the end.
            beside: as `beside` made them, trained so far.
        """


class Recover(Method):
    """How a network gets its accuracy back after a cut."""

    @abstractmethod
    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return the verbs that spend `steps` optimizer steps."""


class Recipe(Method):
    """A whole path from a dense network to one or several budgets, made of steps."""

    @abstractmethod
    def __call__(self, run: Run, budgets: Sequence[Budget]) -> None:
        """Walk through `budgets` by `run.do(step)`, and call `run.do(Arrive(budget))` at each."""


class Cliff(Method):
    """Where a one-way curve falls."""

    @abstractmethod
    def __call__(self, sparsities: Sequence[float], accuracies: Sequence[float]) -> float | None:
        """Return the sparsity of the last point before the fall (sparsities ascending), or None if there is none."""


class Priority(Method):
    """Which layers of a sparse network are damaged."""

    @abstractmethod
    def __call__(self, dense: Probe, sparse: Probe) -> dict[str, float]:
        """Return prunable weight name -> similarity to the dense network in [-1, 1]; low means damaged."""
