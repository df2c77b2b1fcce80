"""CHITA: the regression is the second-order problem, thresholding goes down, back-solving is least squares, real weights."""

import itertools
import statistics

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark, Meet, Remove
from resprout.core.train import Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.remove.chita import Chita
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.magnitude import Magnitude
from resprout.numerics import fisher
from resprout.tasks.digits import digits


def problem(seed: int, n: int = 30, p: int = 14):
    g = torch.Generator().manual_seed(seed)
    mixing = torch.eye(p) + 0.7 * torch.randn(p, p, generator=g)
    return torch.randn(n, p, generator=g) @ mixing, torch.randn(p, generator=g)


def test_the_regression_is_the_surgeons_problem():
    rows, w0 = problem(0)
    rows, w0, lam = rows.double(), w0.double(), 0.01
    w = torch.randn(14, generator=torch.Generator().manual_seed(5)).double()
    h = rows.T @ rows / 30 + lam * torch.eye(14).double()
    assert fisher.objective(rows, w0, w, 30 * lam) == pytest.approx(float(15 * (w - w0) @ h @ (w - w0)), rel=1e-9)


def test_the_back_solve_is_the_minimum_on_its_support():
    rows, w0 = problem(1)
    keep = torch.arange(14) % 3 != 0
    slope = 0.1 * torch.ones(14)
    for a in (None, slope):
        found = fisher.back_solve(rows, w0, keep, 0.3, a)
        assert bool((found[~keep] == 0).all())
        w = found.clone().requires_grad_()
        off = w - w0.double()
        value = (rows.double() @ off).square().sum() / 2 + 0.15 * off.square().sum()
        (value if a is None else value + a.double() @ off).backward()
        assert w.grad is not None
        assert w.grad[keep].abs().max() < 1e-8


@pytest.mark.parametrize("slope", [None, 0.5 * torch.ones(14)])
def test_thresholding_never_goes_up(slope):
    for seed in range(10):
        rows, w0 = problem(seed)
        w, course = fisher.thresholded(rows, w0, 6, 0.03, slope)
        assert int((w != 0).sum()) <= 6
        assert all(b <= a for a, b in itertools.pairwise(course))
        assert course[-1] == pytest.approx(fisher.objective(rows, w0, w, 0.03, slope), rel=1e-5)


def test_the_order_of_methods_against_all_supports():
    """20 correlated problems, 6 of 14: thresholding and back-solve, then magnitude and back-solve, then magnitude alone."""
    excess = {"iht": [], "solved": [], "plain": []}
    supports = torch.tensor([[i in s for i in range(14)] for s in itertools.combinations(range(14), 6)])
    for seed in range(20):
        rows, w0 = problem(100 + seed)
        ridge = 30 * 1e-3

        def value(w, rows=rows, w0=w0, ridge=ridge):
            return fisher.objective(rows.double(), w0, w, ridge)

        h = rows.T.double() @ rows.double() + ridge * torch.eye(14).double()
        best = float("inf")
        off = -(w0.double() * ~supports)  # the change of what goes; what stays answers by least squares
        inner = torch.stack([h[s][:, s] for s in supports])
        right = torch.stack([(h @ o)[s] for o, s in zip(off, supports, strict=True)])
        change = torch.linalg.solve(inner, -right)
        off = off.masked_scatter(supports, change)
        best = float((0.5 * (off @ h) * off).sum(1).min())
        magnitude = torch.zeros(14, dtype=torch.bool)
        magnitude[w0.abs().topk(6).indices] = True
        iht, _ = fisher.thresholded(rows, w0, 6, ridge)
        excess["iht"].append(value(fisher.back_solve(rows, w0, iht != 0, ridge)) / best - 1)
        excess["solved"].append(value(fisher.back_solve(rows, w0, magnitude, ridge)) / best - 1)
        excess["plain"].append(value(w0 * magnitude) / best - 1)
    medians = {k: statistics.median(v) for k, v in excess.items()}
    print(medians)
    assert -1e-6 <= medians["iht"] < medians["solved"] < medians["plain"]


def test_rows_are_the_gradients_of_samples_and_lines_go_back():
    model = nn.Linear(3, 2, bias=False)
    x = torch.randn(5, 3)
    pieces = list(fisher.samples((x, {"y": torch.arange(5), "scale": torch.tensor(2.0)}), 2))
    assert [len(p[0]) for p in pieces] == [2, 2, 1]
    assert pieces[2][1]["y"].tolist() == [4]
    probe = Probe(model, data=pieces, loss=lambda m, b: m(b[0]).square().sum())
    masks = rs.Masks({"weight": torch.tensor([[True, False, True], [True, True, False]])})
    rows = fisher.gradient_rows(probe, masks)
    expected = torch.stack([(2 * (p[0] @ model.weight.detach().T).T @ p[0])[masks["weight"]] for p in pieces])
    assert torch.allclose(rows, expected, atol=1e-5)
    line = fisher.flat({"weight": model.weight.detach()}, masks)
    assert torch.equal(fisher.unflat(line, masks)["weight"], model.weight.detach() * masks["weight"])


def trained() -> Run:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    run = Run(mlp, digits(), seed=0, probe_batches=4)
    run.do(Mark("start"))
    run.do(Train(180, Cosine(0.1, 0.0, warmup=0.1)))
    run.do(Mark("dense"))
    return run


def test_on_digits_one_cut_to_a_tenth_beats_magnitude_by_far():
    run = trained()
    whole = run.evaluate()
    run.do(Meet(rs.Sparsity(0.9), Magnitude(), Global()))
    plain = run.evaluate()
    run.restore("dense")
    before = run.masks
    facts = run.do(Remove(rs.Sparsity(0.9), Chita(stages=4, rows=128)))
    print(whole, plain, run.evaluate(), facts["ridges"])
    assert run.masks.alive == round(0.1 * run.masks.total)
    assert run.masks <= before
    assert all(bool((w.detach()[~run.masks[n]] == 0).all()) for n, w in run.weights().items())
    assert run.evaluate() > plain + 0.05


def test_a_budget_in_bytes_is_met_and_units_are_weights():
    run = trained()
    run.do(Remove(rs.Bytes(1500), Chita(stages=1, rows=16, ridges=(1e-3,))))
    cost = rs.Bytes(1500).cost(run.model, run.masks)
    assert 1480 < cost <= 1500
    with pytest.raises(ResproutError, match="ridges"):
        Chita(ridges=())
