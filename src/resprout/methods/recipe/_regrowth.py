"""The way back up that both published recipes share; not a method."""

from ...core.budget import Budget
from ...core.kinds import Fill, Recover, Score
from ...core.run import Run
from ...core.steps import Meet, Regrow, Search
from ..allocate.damage_greedy import DamageGreedy
from ..allocate.damage_proportional import DamageProportional
from ..allocate.global_ import Global
from ..allocate.table import Table
from ..search.damage import Damage
from ..search.policy_gradient import PolicyGradient

ALLOCATORS = ("policy_gradient", "proportional", "greedy", "global")


def regrow(
    run: Run,
    budget: Budget,
    keep: int,
    fractions: tuple[float, ...],
    rounds: int,
    steps: int,
    curve: list[tuple[float, float]],
    damage: Damage,
    allocator: str,
    controller: tuple[int, float],
    score: Score,
    fill: Fill,
    recover: Recover,
) -> None:
    """Regrow in rounds from the network as it stands to `keep` weights, and in the last to the budget's limit.

    Args:
        run: at the stump.
        budget: the target.
        keep: about how many weights it allows.
        fractions: what one round may add, as fractions of all prunable weights (the last round adds what is left).
        rounds: at most so many.
        steps: optimizer steps of all rounds together.
        curve: the one-way curve.
        damage: finds the damaged layers.
        allocator: one of `ALLOCATORS`; how a round's weights are divided among them.
        controller: (episodes, epochs of each mini fine-tune) of the policy gradient.
        score: ranks the dead within a layer.
        fill: their values.
        recover: what follows each round.
    """
    total = run.masks.total
    for i in range(rounds):
        left = keep - run.here["alive"]
        levels = tuple(sorted({max(1, min(left, round(f * total))) for f in fractions}))
        if i == rounds - 1 or left <= levels[-1]:
            levels = (max(0, left),)
        found = run.do(Search(damage))
        similarity = {n: found["similarity"][n] for n in found["layers"]}
        if allocator == "policy_gradient" and levels[0] > 0:
            episodes, epochs = controller
            search = PolicyGradient(tuple(found["layers"]), levels, tuple(curve), epochs, episodes, recover=recover)
            grow = run.do(Search(search))["grow"]
            after = {n: k + grow.get(n, 0) for n, k in run.here["counts"].items()}
            allocate = Table({n: k / run.masks.sizes[n] for n, k in after.items()})
            target = sum(after.values())
        else:
            allocate = {
                "proportional": DamageProportional(similarity),
                "greedy": DamageGreedy(similarity),
            }.get(allocator, Global())
            target = run.here["alive"] + levels[-1]
        last = i == rounds - 1 or target >= keep
        if last:
            run.do(Meet(budget, score, allocate, fill))
        else:
            run.do(Regrow(1 - target / total, score, allocate, fill))
        share = steps - steps * i // rounds if last else steps * (i + 1) // rounds - steps * i // rounds
        for step in recover(max(1, share)):
            run.do(step)
        if last:
            return
