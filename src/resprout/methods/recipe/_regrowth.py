"""The way back up that both published recipes share; not a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.budget import Budget
from ...core.run import Run
from ...core.steps import Meet, Regrow, Search
from ..allocate.damage_greedy import DamageGreedy
from ..allocate.damage_proportional import DamageProportional
from ..allocate.global_ import Global
from ..allocate.table import Table
from ..search.policy_gradient import PolicyGradient

if TYPE_CHECKING:
    from .bidirectional_iterative import BidirectionalIterative

ALLOCATORS = ("policy_gradient", "proportional", "greedy", "global")


def regrow(
    run: Run,
    recipe: BidirectionalIterative,
    budget: Budget,
    keep: int,
    steps: int,
    curve: list[tuple[float, float]],
) -> None:
    """Regrow in rounds from the network as it stands to `keep` weights, and in the last to the budget's limit.

    Args:
        run: at the stump.
        recipe: how: its `fractions` are what one round may add (the last adds what is left).
        budget: the target.
        keep: about how many weights it allows.
        steps: optimizer steps of all rounds together.
        curve: the one-way curve.
    """
    total = run.units.total
    for i in range(recipe.rounds):
        left = keep - run.here["units"]
        levels = tuple(sorted({max(1, min(left, round(f * total))) for f in recipe.fractions}))
        if i == recipe.rounds - 1 or left <= levels[-1]:
            levels = (max(0, left),)
        found = run.do(Search(recipe.damage))
        similarity = {n: found["similarity"][n] for n in found["layers"]}
        if recipe.allocator == "policy_gradient" and levels[0] > 0:
            episodes, epochs = recipe.controller
            search = PolicyGradient(
                tuple(found["layers"]), levels, tuple(curve), epochs, episodes, recover=recipe.recover
            )
            grow = run.do(Search(search))["grow"]
            after = {n: k + grow.get(n, 0) for n, k in run.here["counts"].items()}
            allocate = Table({n: k / run.masks.sizes[n] for n, k in after.items()})
            target = sum(after.values())
        else:
            allocate = {
                "proportional": DamageProportional(similarity),
                "greedy": DamageGreedy(similarity),
            }.get(recipe.allocator, Global())
            target = run.here["units"] + levels[-1]
        last = i == recipe.rounds - 1 or target >= keep
        if last:
            run.do(Meet(budget, recipe.score, allocate, recipe.fill))
        else:
            run.do(Regrow(1 - target / total, recipe.score, allocate, recipe.fill))
        until = recipe.rounds if last else i + 1
        share = steps * until // recipe.rounds - steps * i // recipe.rounds
        for step in recipe.recover(max(1, share)):
            run.do(step)
        if last:
            return
