"""What every method owes, the moment its file exists: one walk over the folders of methods."""

import dataclasses
import importlib
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

import resprout
from resprout.core import kinds, select
from resprout.core.granularity import NM, Row, Weight
from resprout.core.kinds import Scores
from resprout.core.masks import Masks
from resprout.core.probe import Probe

ROOT = Path(resprout.__file__).parent / "methods"
KINDS = {
    "score": kinds.Score,
    "allocate": kinds.Allocation,
    "fill": kinds.Fill,
    "rule": kinds.Rule,
    "schedule": kinds.Schedule,
    "cliff": kinds.Cliff,
    "priority": kinds.Priority,
    "solve": kinds.Solver,
    "remove": kinds.Remover,
    "tune": kinds.Tune,
    "gate": kinds.Gate,
    "objective": kinds.Objective,
    "recover": kinds.Recover,
    "recipe": kinds.Recipe,
    "search": kinds.Searcher,
}
FILES = sorted(p for p in ROOT.glob("*/*.py") if not p.name.startswith("_"))
SIMILARITY = {"0.weight": 0.1, "4.weight": 0.9}
ARGUMENTS = {  # of those that no default can serve
    "table": [{"densities": {"0.weight": 0.5}}],
    "rate_distortion": [
        {"levels": (0.0, 0.5, 1.0), "tables": {"0.weight": (4.0, 1.0, 0.0), "4.weight": (2.0, 0.5, 0.0)}}
    ],
    "damage_proportional": [{"similarity": SIMILARITY}],
    "damage_greedy": [{"similarity": SIMILARITY}],
    "synflow": [{"rounds": 4, "down_to": 0.05}],
    "constant": [{"value": 0.5}],
}


def method_of(path: Path) -> type:
    module = importlib.import_module(f"resprout.methods.{path.parent.name}.{path.stem}")
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, kinds.Method)]
    assert len(found) == 1, f"{path.name} holds {len(found)} methods; one file is one idea"
    return found[0]


def instances(kind: str) -> list:
    """Every method of a kind, built with what the table above says, or the ends of a schedule, or nothing."""
    out = []
    for path in FILES:
        if path.parent.name == kind:
            default = {"start": 0.1, "end": 0.9} if kind == "schedule" else {}
            for arguments in ARGUMENTS.get(path.stem, [default]):
                out.append(pytest.param(method_of(path)(**arguments), id=path.stem))
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_form_of_a_method(path):
    cls = method_of(path)
    assert issubclass(cls, KINDS[path.parent.name])
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert "__init__" not in cls.__dict__ or cls.__init__.__qualname__.startswith(("__create_fn__", cls.__name__))
    assert cls.fidelity in get_args(kinds.Fidelity)
    module = importlib.import_module(cls.__module__)
    paragraphs = (module.__doc__ or "").split("\n\n")
    assert len(paragraphs) >= 2, "the docstring's second paragraph is the citation"
    assert re.search(r"arXiv|[A-Z]\w+ (19|20)\d\d|\d{4}|[Oo]urs", paragraphs[1]), f"no citation in {paragraphs[1]!r}"
    assert cls.__doc__
    assert cls.__name__.lower() == path.stem.replace("_", ""), "the file's path is the method's name"
    if path.parent.name in ("score", "allocate", "fill", "schedule"):
        assert len(path.read_text().splitlines()) < 60
    try:
        method = cls()
    except TypeError:
        return
    core = [m for n, m in sys.modules.items() if n.startswith("resprout.core.")]
    names = {n: v for m in core for n, v in vars(m).items() if getattr(v, "__module__", "") == m.__name__}
    names |= {c.__name__: c for c in map(method_of, FILES)}
    assert eval(repr(method), names) == method
    assert method == cls()


def shadowed(cls: type) -> list[str]:
    """Fields that hide a method of the kind: a rule with a field `end` would have a number where training calls a hook."""
    bases = [b for b in cls.__mro__[1:] if b is not object]
    names = [f.name for f in dataclasses.fields(cls)]
    return [n for n in names if any(inspect.isfunction(vars(b).get(n)) for b in bases)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_field_has_the_name_of_a_hook(path):
    cls = method_of(path)
    assert not shadowed(cls), f"{cls.__name__} hides {shadowed(cls)} of its kind: name the field otherwise"


@pytest.mark.parametrize("hook", ["begin", "end", "after_step", "after_backward"])
def test_a_hidden_hook_is_seen(hook):
    assert shadowed(dataclasses.make_dataclass("Odd", [(hook, float, 0.5)], bases=(kinds.Rule,), frozen=True)) == [hook]


def state(model: nn.Module) -> list:
    rng = torch.get_rng_state()
    tensors = [t.clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    return [rng, *tensors, *grads, modes, hooks, flags]


def same(a: list, b: list) -> bool:
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("score", instances("score"))
@pytest.mark.parametrize("training", [True, False])
def test_a_score_is_finite_repeatable_and_leaves_no_trace(score, training, tiny, batches, loss):
    tiny.eval()
    tiny[5].train()  # modes may be mixed
    loss(tiny, batches[0]).backward()
    anchor = {n: t + 0.1 for n, t in tiny.state_dict().items()}
    before = state(tiny)

    def found() -> dict:
        probe = Probe(tiny, data=batches, loss=loss, anchor=anchor, training=training)
        return {n: select.dense(s).clone() for n, s in score(probe).items()}

    first = found()
    assert same(before, state(tiny))
    assert {n: s.shape for n, s in first.items()} == {n: p.shape for n, p in Probe(tiny).weights().items()}
    assert all(torch.isfinite(s).all() for s in first.values())
    torch.manual_seed(99)
    assert all(torch.equal(s, first[n]) for n, s in found().items())


@pytest.mark.parametrize("allocation", instances("allocate"))
def test_an_allocation_is_met_exactly_and_nests(allocation):
    """Down and up again, also for scores with ties and where a tensor is full."""
    g = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (8, 2, 3, 3), "4.weight": (16, 32), "6.weight": (10, 16)}
    scores = {n: (torch.rand(s, generator=g) * 50).round() / 50 for n, s in shapes.items()}
    masks = Masks({n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()})
    total = masks.total
    for keep in (total, 700, 555, 400, 299):
        smaller = Weight().choose(Scores(scores, masks), keep, allocation)
        assert smaller.alive == keep
        assert smaller <= masks
        masks = smaller
    for keep in (300, 450, 800, total):
        larger = Weight().choose(Scores(scores, ~masks, masks), keep, allocation)
        assert larger.alive == keep
        assert masks <= larger
        masks = larger


@pytest.mark.parametrize("allocation", instances("allocate"))
def test_an_allocation_that_goes_by_shape_looks_at_no_score(allocation):
    shapes = {"0.weight": (8, 2, 3, 3), "4.weight": (16, 32), "6.weight": (10, 16)}
    scores = {n: torch.rand(s) for n, s in shapes.items()}
    unseen = {n: torch.empty(s, device="meta") for n, s in shapes.items()}
    prices = dict.fromkeys(shapes, 1.0)
    if allocation.by_shape:
        assert allocation(Scores(unseen), prices, 300.0) == allocation(Scores(scores), prices, 300.0)


@pytest.mark.parametrize("solver", instances("solve"))
@pytest.mark.parametrize("granularity", [Weight(), Row(), NM(2, 4)])
def test_a_solver_never_loses_to_plain_masking(solver, granularity):
    g = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 16, generator=g), torch.randn(16, 40, generator=g)
    x[3] += x[2] + x[5]  # inputs that say the same
    gram, kept = x @ x.T, weight.clone()
    alive = torch.ones(6, 16, dtype=torch.bool)
    same = solver(weight, solver.prepare(gram.clone()), Weight().pick(alive, 96))
    assert torch.allclose(same, weight, atol=1e-5)
    solved = solver(weight, solver.prepare(gram.clone()), granularity.pick(alive, 48))
    mask = solved != 0
    assert int(mask.sum()) == 48
    assert torch.equal(weight, kept)
    assert torch.isfinite(solved).all()
    assert float(((weight - solved) @ x).square().sum()) < float(((weight * ~mask) @ x).square().sum())


@pytest.mark.parametrize("fill", instances("fill"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fill_has_the_weights_form_and_one_source_of_randomness(fill, dtype):
    weight, anchor = torch.randn(6, 4, 3, 3).to(dtype), torch.randn(6, 4, 3, 3)
    kept, rng = weight.clone(), torch.get_rng_state()
    first, again = (fill(weight, anchor, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first.shape, first.dtype, first.device) == (weight.shape, weight.dtype, weight.device)
    assert torch.isfinite(first).all()
    assert torch.equal(weight, kept)
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("schedule", instances("schedule"))
def test_a_schedule_has_exact_ends_and_stays_within(schedule):
    values = [schedule(i / 100) for i in range(101)]
    start, end = (getattr(schedule, n, values[0]) for n in ("start", "end"))
    if type(schedule).__name__ != "OneShot":
        assert values[0] == start
    assert values[-1] == end
    assert schedule(-3.0) == values[0]
    assert schedule(7.0) == values[-1]
    assert all(0.1 - 1e-12 <= v <= 0.95 + 1e-12 for v in values)
    if type(schedule).__name__ != "Cyclic":
        assert all(a <= b + 1e-12 for a, b in pairwise(values))
