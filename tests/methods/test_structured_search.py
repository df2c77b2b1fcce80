"""Levels by the surgeon's formula, the search over them, and the two removers made of both."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.budget import Budget
from resprout.core.errors import BudgetError, ResproutError
from resprout.core.kinds import Remover
from resprout.core.masks import Masks
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.core.train import Optimizer
from resprout.core.units import Group, Slot, living
from resprout.methods.recover.finetune import Finetune
from resprout.methods.remove._evolution import Space, Stage, Trials, evolve, head, stages
from resprout.methods.remove._levels import Level, Surgeon, base, database, ladder, settle, sites
from resprout.methods.remove.darwinlm import Darwinlm
from resprout.methods.remove.tyr import Tyr
from resprout.methods.schedule.constant import Constant
from resprout.numerics.curvature import least_squares
from resprout.tasks.text import Text

TOGETHER = torch.arange(12).reshape(6, 2)  # six units of two columns each


def quadratic(columns: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and H = 2 X X^T of inputs that overlap."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(columns, 40, generator=g, dtype=torch.float64)
    x = torch.eye(columns, dtype=torch.float64) @ x + 0.7 * x.roll(1, 0)
    return torch.randn(5, columns, generator=g, dtype=torch.float64), 2 * (x @ x.T)[None]


def test_a_single_column_costs_its_squares_over_the_inverse_and_no_less():
    weight, h = quadratic()
    surgeon = Surgeon(weight, h, torch.arange(12)[:, None], torch.ones(12, dtype=torch.bool))
    costs = surgeon.costs()
    by_hand = weight.square().sum(0) / torch.linalg.inv(h[0] / 2).diagonal()
    torch.testing.assert_close(costs, by_hand, rtol=0, atol=1e-10)
    surgeon.remove(torch.tensor([3]))
    off = surgeon.weight - weight
    assert float((off @ (h[0] / 2) * off).sum()) == pytest.approx(float(costs[3]), abs=1e-10)


def test_removing_groups_one_by_one_is_the_closed_form():
    weight, h = quadratic()
    surgeon = Surgeon(weight, h, TOGETHER, torch.ones(6, dtype=torch.bool))
    keep, error = torch.ones(12, dtype=torch.bool), 0.0
    for _ in range(4):
        costs = surgeon.costs()
        unit = int(costs.argmin())
        error += float(costs[unit])
        surgeon.remove(torch.tensor([unit]))
        keep[TOGETHER[unit]] = False
        best = least_squares(weight, h, keep)
        torch.testing.assert_close(surgeon.weight, best, rtol=0, atol=1e-10)
        off = best - weight
        assert float((off @ (h[0] / 2) * off).sum()) == pytest.approx(error, rel=1e-10)
        assert torch.isinf(surgeon.costs()).sum() == int((~surgeon.alive).sum())


def test_several_groups_at_once_are_the_closed_form_too():
    weight, h = quadratic()
    surgeon = Surgeon(weight, h, TOGETHER, torch.ones(6, dtype=torch.bool))
    surgeon.remove(torch.tensor([4, 0, 2]))
    keep = torch.tensor([False, True, False, True, False, True]).repeat_interleave(2)
    torch.testing.assert_close(surgeon.weight, least_squares(weight, h, keep), rtol=0, atol=1e-10)


def test_the_first_order_term_is_what_a_group_has_in_common_with_the_output():
    weight, h = quadratic()
    plain, more = (Surgeon(weight, h, TOGETHER, torch.ones(6, dtype=torch.bool), first) for first in (False, True))
    product = (weight * (weight @ h[0])).sum(0)[TOGETHER].sum(1)
    torch.testing.assert_close(more.costs() - plain.costs(), product)


@pytest.mark.parametrize("at_once", [1, 4])
def test_levels_nest_and_lose_more_and_more(at_once):
    weight, h = quadratic()
    levels = ladder(weight, h, TOGETHER, torch.ones(6, dtype=torch.bool), [0, 2, 3, 5, 6], at_once)
    assert [int((~lv.alive).sum()) for lv in levels] == [lv.gone for lv in levels] == [0, 2, 3, 5, 6]
    assert torch.equal(levels[0].weight, weight)
    assert not levels[-1].weight.any()
    errors = []
    for fewer, more in pairwise(levels):
        assert not bool((more.alive & ~fewer.alive).any())
    for level in levels:
        off = level.weight - weight
        errors.append(float((off @ h[0] * off).sum()))
        assert not level.weight[:, TOGETHER[~level.alive].flatten()].any()
    assert errors == sorted(errors)


def test_a_mutation_keeps_the_sum_of_each_kind_and_the_bounds():
    kinds = ["a", "b", "a", "a", "b", "c"]
    space, draw = Space([-4, 0, -1, 0, 0, 0], [4, 3, 2, 4, 3, 9], kinds), torch.Generator().manual_seed(0)
    at, seen = (0, 1, 0, 2, 2, 5), set()
    for _ in range(300):
        new = space.mutate(at, 4, draw)
        for kind in "abc":
            assert sum(n - o for n, o, k in zip(new, at, kinds, strict=True) if k == kind) == 0
        assert all(lo <= n <= hi for lo, n, hi in zip(space.low, new, space.high, strict=True))
        at = new
        seen.add(at)
    assert len(seen) > 50
    assert {s[5] for s in seen} == {5}, "a site that is the only one of its kind stays"


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_optimum_is_found_in_eight_generations(seed):
    """The catalogue's check: 10 layers, 9 levels, 128 offspring."""
    draw = torch.Generator().manual_seed(seed)
    planted = Space([-4] * 10, [4] * 10, ["x"] * 10)
    target = (0,) * 10
    for _ in range(12):
        target = planted.mutate(target, 1, draw)

    def fitness(choice: tuple[int, ...], stage: Stage, generation: int) -> float:
        return float(sum((a - b) ** 2 for a, b in zip(choice, target, strict=True)))

    best, history = evolve((0,) * 10, planted, fitness, stages((16, 4, 1), (0.1, 0.5, 1.0)), 8, 128, 4, draw)
    assert best == target
    assert history[-1] == 0
    assert history == sorted(history, reverse=True)


class Two(nn.Module):
    """Two branches side by side, each of hidden units that one layer reads; the units of the second hardly matter."""

    def __init__(self, hidden: int = 8):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, hidden), nn.Linear(4, hidden)
        self.out_a, self.out_b = nn.Linear(hidden, 3), nn.Linear(hidden, 3, bias=False)
        with torch.no_grad():
            self.out_a.weight.mul_(4)
            self.out_b.weight.mul_(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_a(self.a(x).relu()) + self.out_b(self.b(x).relu())


def task(model: nn.Module, inputs: int = 4) -> rs.Arrays:
    x = torch.randn(192, inputs, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    a, b, c = ((x[i::3], y[i::3]) for i in range(3))
    return rs.Arrays(a, b, c, batch_size=16, name="two")


def units(n: int, *names: str) -> tuple[Group, ...]:
    each = torch.arange(n)[:, None]
    return tuple(
        Group(f"{a}.weight", "channel", (Slot(f"{a}.weight", 0, each), Slot(f"out_{a}.weight", 1, each))) for a in names
    )


def ready(model: nn.Module, groups: tuple[Group, ...], inputs: int = 4) -> Run:
    run = Run(model, task(model, inputs), probe_batches=4, groups=groups)
    run.do(Mark("dense"))
    return run


QUICK: dict[str, Any] = {"generations": 4, "offspring": 8, "floor": 1}
SEARCHES: list[Remover] = [
    Tyr(levels=5, iterations=2, rounds=4, survivors=(4, 1), shares=(0.25, 1.0), **QUICK),
    Darwinlm(levels=4, steps=(0,), survivors=(1,), shares=(1.0,), **QUICK),
    Darwinlm(levels=4, steps=(0, 2), survivors=(2, 1), shares=(0.25, 1.0), **QUICK),
]


@pytest.mark.parametrize("remover", SEARCHES, ids=["tyr", "evopress", "darwinlm"])
def test_the_search_takes_from_the_layer_that_does_not_matter(remover):
    run = ready(Two(), units(8, "a", "b"))
    dense = copy.deepcopy(run.model)
    facts = run.do(Remove(Budget.parse("0.5"), remover))
    assert 0.5 <= run.masks.sparsity <= 0.5 + 7 / 112
    assert facts["gone"]["b.weight"] > 4 > facts["gone"]["a.weight"]
    assert facts["gone"]["a.weight"] + facts["gone"]["b.weight"] in (8, 9)
    x = torch.randn(7, 4)
    small = rs.shrink(run.model, run.masks, x)
    torch.testing.assert_close(small(x), run.model(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())


@pytest.mark.parametrize("remover", SEARCHES[:2], ids=["tyr", "evopress"])
def test_a_second_budget_nests_in_the_first(remover):
    run = ready(Two(), units(8, "a", "b"))
    run.do(Remove(Budget.parse("0.25"), remover))
    first = run.masks
    run.do(Remove(Budget.parse("0.75"), remover))
    assert run.masks <= first
    assert 0.75 <= run.masks.sparsity <= 0.75 + 2 * 7 / 112


def test_what_cannot_be_met_and_what_has_no_units_is_said():
    run = ready(Two(), units(8, "a"))
    with pytest.raises(BudgetError, match=r"cannot be met: with 63 weights alive"):
        SEARCHES[0](run, Budget.parse("0.9"))
    with pytest.raises(ResproutError, match="granularity 'width', 'channel', 'head' or 'layer'"):
        SEARCHES[0](ready(Two(), ()), Budget.parse("0.5"))


def test_the_start_is_as_equal_as_the_budget_allows():
    run = ready(Two(), units(8, "a", "b"))
    budget = Budget.parse("0.4")  # of 112 weights: 44.8, at 7 a unit six and a half
    places = sites(run, budget)
    assert base(run, budget, places, [range(9)] * 2) == [3, 4]
    assert base(run, Budget.parse("0"), places, [range(9)] * 2) == [0, 0]


def test_layers_see_the_error_of_those_before_them_only_where_one_says_so():
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    each = torch.arange(8)[:, None]
    groups = tuple(
        Group(f"{i}.weight", "channel", (Slot(f"{i}.weight", 0, each), Slot(f"{i + 2}.weight", 1, each)))
        for i in (0, 2)
    )
    run = ready(deep, groups)
    places = sites(run, Budget.parse("0.5"))
    plain = database(run.fork(), places, [range(9)] * 2, [8, 8], 0.01)
    after = database(run.fork(), places, [range(9)] * 2, [8, 8], 0.01, standing=[4, 4])
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain[0], after[0], strict=True))
    assert not torch.equal(plain[1][4].weight, after[1][4].weight)
    assert all(torch.equal(run.points["dense"][n], t) for n, t in deep.state_dict().items()), "the run itself stays"


def llama() -> nn.Module:
    """Three blocks of width 16 with 4 heads (2 of keys and values) and 12 MLP channels."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=12, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(8)
    return model


def test_grouped_heads_leave_together_and_what_is_left_shrinks():
    model, ids = llama(), torch.tensor([[1, 4, 9, 2, 7]])
    tokens = torch.randint(3, 32, (600,), generator=torch.Generator().manual_seed(0))
    masks = Masks.dense(model)
    groups = selectable(model, rs.trace(model, {"input_ids": ids}, layers=True).groups, list(masks), masks)
    run = Run(model, Text(tokens, tokens, tokens, 12, 1, 8, "noise"), probe_batches=3, groups=groups)
    run.do(Mark("dense"))
    budget = Budget.parse("0.4")
    places = sites(run, budget)
    assert [(p.group.kind, len(p.group), tuple(p.blocks.shape)) for p in places[:2]] == [
        ("head", 2, (2, 8)),
        ("channel", 12, (12, 1)),
    ]
    assert len({p.kind for p in places}) == 2
    remover = Tyr(levels=5, iterations=2, generations=2, offspring=6, survivors=(3, 1), shares=(0.25, 1.0))
    facts = run.do(Remove(budget, remover))
    assert 0.4 <= run.masks.sparsity < 0.43
    assert all(b <= a + 1e-9 for a, b in pairwise(facts["kl"][0]))
    small = rs.shrink(run.model, run.masks, {"input_ids": ids})
    assert torch.allclose(small(ids).logits, run.model(ids).logits, atol=1e-4)
    counts = [range(len(p.group) + 1) for p in places]
    all_of_one = database(run.fork(), places, [c if i == 2 else [c[0]] for i, c in enumerate(counts)], [1] * 6, 0.01)
    before = living([p.group for p in places], run.masks)
    keep = [Level(0, before[p.group.name], run.weights()[p.reader].detach()) for p in places]
    settle(run, places, [all_of_one[i][-1] if i == 2 else level for i, level in enumerate(keep)])
    less = rs.shrink(run.model, run.masks, {"input_ids": ids})  # an attention without heads leaves as a layer
    assert torch.allclose(less(ids).logits, run.model(ids).logits, atol=1e-4)


class Fork(nn.Module):
    """Branch a sees the first input alone, b the second, of which the dense network makes its answer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.out_a, self.out_b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
            self.b.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
            self.out_a.weight.fill_(0.0)
            self.out_b.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_a(self.a(x)) + self.out_b(self.b(x))


def test_training_aware_selection_sees_who_will_be_better():
    """The catalogue's check: one candidate is better at once, the other after twenty steps."""
    model = Fork()
    masks = Masks(
        {n: p != 0 if n[0] in "ab" else torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    )
    run = Run(model, task(model, 2), masks, probe_batches=4, groups=units(2, "a", "b"))
    run.do(Mark("dense"))
    places, every, none = (
        sites(run, Budget.parse("0.5")),
        torch.ones(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.bool),
    )
    away, wild = torch.zeros(2, 2), torch.tensor([[9.0, 9.0], [-9.0, -9.0]])
    levels = [
        [Level(0, every, away), Level(1, every, wild), Level(2, none, away)],  # a alone says nothing: near enough
        [
            Level(0, every, -0.5 * model.out_b.weight.detach()),
            Level(1, every, -wild),
            Level(2, none, away),
        ],  # b says no
    ]
    recover = Finetune(Constant(0.1), Optimizer("adamw"))
    trials = Trials(run, places, levels, [0, 0], 2, recover)
    a, b = (0, 2), (2, 0)
    now, later = Stage(1, 1.0), Stage(1, 1.0, 20)
    assert trials(a, now) < trials(b, now)
    assert trials(a, later) > trials(b, later)
    space = Space([0, 0], [2, 2], ["x", "x"])
    for steps, best in (((0,), a), ((20,), b)):
        plan = stages((1,), (1.0,), steps)
        assert evolve((1, 1), space, trials, plan, 2, 2, 1, torch.Generator().manual_seed(0))[0] == best
    assert run.searched > 0
    assert run.trained == 0


def test_a_share_of_the_rows_is_the_same_share_of_the_fitness():
    run = ready(Two(), units(8, "a", "b"))
    places = sites(run, Budget.parse("0.5"))
    levels = database(run.fork(), places, [range(9)] * 2, [8, 8], 0.01)
    trials = Trials(run, places, levels, [0, 0], 3)
    assert trials((0, 0), Stage(1, 1.0)) < 1e-6
    sizes = [[size for _, _, size in trials._parts(share, 1)] for share in (1.0, 0.5, 0.3, 1e-9)]
    assert sizes == [[16] * 4, [16, 16], [16, 3], [1]]
    quarters = [trials((4, 4), Stage(1, 0.25), g) for g in range(4)]
    assert sum(quarters) / 4 == pytest.approx(trials((4, 4), Stage(1, 1.0)), rel=1e-5)
    batch = {"x": torch.ones(4, 2), "y": (torch.ones(4), 3)}
    assert head(batch, 2)["y"][0].shape == (2,)
