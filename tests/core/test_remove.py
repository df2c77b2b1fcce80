"""The step `Remove`, and the recipe around it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from perceptron import net, task

from resprout.core.budget import Budget
from resprout.core.errors import BudgetError, ResproutError
from resprout.core.kinds import Fidelity, Remover
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.methods.recipe.remove_once import RemoveOnce
from resprout.methods.recover.finetune import Finetune


@dataclass(frozen=True)
class Rows(Remover):
    """Rows from the last to the first; `least` stay whatever the budget says."""

    least: int = 0
    fidelity: ClassVar[Fidelity] = "smoke-tested"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        name, mask = next(iter(run.masks.items()))
        gone = 0
        while not budget.met(budget.cost(run.model, run.masks)) and len(mask) - gone > self.least:
            gone += 1
            alive = (torch.arange(len(mask)) < len(mask) - gone)[:, None].expand_as(mask)
            run.set_masks(run.masks & Masks({n: alive.clone() if n == name else m for n, m in run.masks.items()}))
        return {"gone": gone}


@dataclass(frozen=True)
class Wakes(Remover):
    fidelity: ClassVar[Fidelity] = "smoke-tested"

    def __call__(self, run: Run, budget: Budget) -> dict[str, Any]:
        run.set_masks(Masks.dense(run.model))
        return {}


def test_units_leave_until_the_budget_is_met():
    run = Run(net(), task())
    record = run.do(Remove(Budget.parse("57 weights"), Rows()))
    assert (record["gone"], record["died"]) == (4, 24)
    assert run.masks.alive == record["cost"] == 56
    assert not run.model[0].weight[6:].any()


def test_a_budget_that_is_not_met_says_how_near_one_gets():
    with pytest.raises(BudgetError, match=r"cannot be met: with 68 weights alive"):
        Run(net(), task()).do(Remove(Budget.parse("57 weights"), Rows(least=8)))


def test_a_remover_wakes_nobody():
    run = Run(net(), task())
    run.do(Remove(Budget.parse("62 weights"), Rows()))
    with pytest.raises(ResproutError, match="woken dead weights"):
        run.do(Remove(Budget.parse("62 weights"), Wakes()))


def test_remove_once_walks_from_the_largest_budget_down_and_recovers():
    run = Run(net(), task())
    run.do(Mark("dense"))
    RemoveOnce(Rows(), epochs=4, recover=Finetune())(run, [Budget.parse("44 weights"), Budget.parse("68 weights")])
    arrived = [r for r in run.journal if r["step"] == "Arrive"]
    assert [r["alive"] for r in arrived] == [68, 44]
    assert run.trained == 2 * round(4 * task().steps_per_epoch / 2)


def test_without_epochs_nothing_is_trained():
    run = Run(net(), task())
    run.do(Mark("dense"))
    before = run.model[0].weight.detach().clone()
    RemoveOnce(Rows(), epochs=0)(run, [Budget.parse("68 weights")])
    assert run.trained == 0
    assert torch.equal(run.model[0].weight[:8], before[:8])
