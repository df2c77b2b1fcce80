"""The fitter on data made from the laws, the released schedules, and the closed forms of the planners."""

import math
from itertools import pairwise

import pytest
import torch

from resprout import ResproutError
from resprout.laws._law import Fitted, fit, slope_difference
from resprout.laws.avg_param_law import AvgParamLaw, average, keep_ratios, plan
from resprout.laws.p2_law import P2Law, broken, factor, floor, tokens_until
from resprout.methods.schedule.geometric import Geometric

CHINCHILLA = Fitted(AvgParamLaw(), {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28})
P2 = Fitted(
    P2Law(), {"N_C": 300.0, "alpha": 0.35, "D_C": 80.0, "beta": 0.25, "E": 0.4, "gamma": -1.3, "delta": 0.05}
)  # fmt: skip


@pytest.mark.parametrize(
    ("sparsity", "steps", "start", "end"),
    [(0.5, 72200, 12507, 47185), (0.6, 26800, 4089, 16578)],
)
def test_the_plan_is_that_of_the_released_configurations(sparsity, steps, start, end):
    found = plan(sparsity, steps, 1e9)
    assert (found.start, found.end) == (start, end)


@pytest.mark.parametrize(
    ("sparsity", "shares", "mean"),
    [(0.5, (0.173, 0.480, 0.347), 0.693), (0.8, (0.100, 0.401, 0.499), 0.399)],
)
def test_the_shares_of_steps_and_the_average_are_the_papers(sparsity, shares, mean):
    found = plan(sparsity, 10**6, 1.0)
    taken = [x / 1e6 for x in (found.start, found.end - found.start, 10**6 - found.end)]
    assert taken == pytest.approx(list(shares), abs=6e-4)
    assert round(found.average, 3) == mean
    ends = found.start / 1e6, found.end / 1e6
    falling = Geometric(0.0, sparsity)
    by_steps = average(lambda t: 1 - falling((t - ends[0]) / (ends[1] - ends[0])))
    assert by_steps == pytest.approx(found.average, rel=1e-4)


def test_a_plan_counts_what_is_never_pruned_and_what_hardware_could_save():
    found = plan(0.5, 1000, 100.0, fixed=20.0, tokens=10.0)
    assert found.final == 70
    assert found.average == pytest.approx(20 + 100 * 0.693, abs=0.05)
    assert found.flops == pytest.approx(6 * found.average * 10)
    assert found.dense_flops == 6 * 120 * 10
    assert plan(0.5, 1000, 100.0).saving == pytest.approx(0.28, abs=0.005)  # 28 % fewer at inference
    with pytest.raises(ResproutError, match="shares"):
        plan(0.5, 100, 1.0, dense=0.6, recovery=0.4)


def test_the_last_event_keeps_the_density_exactly():
    kept = keep_ratios(0.5, 12500, 47200, 100)
    assert len(kept) == 348
    assert kept[-1] == 0.5
    ratios = [b / a for a, b in pairwise(kept)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert kept[0] == pytest.approx(ratios[0])


def test_the_fitter_finds_the_coefficients_of_chinchilla():
    sizes, tokens = torch.meshgrid(torch.logspace(7, 10, 6), torch.logspace(9, 11.5, 6), indexing="ij")
    at = {"average_params": sizes.flatten(), "tokens": tokens.flatten()}
    losses = CHINCHILLA(**at)
    found = fit(AvgParamLaw(), losses, at).coefficients
    for name in ("alpha", "beta"):
        assert found[name] == pytest.approx(CHINCHILLA.coefficients[name], rel=0.05)
    noise = 1 + 2e-3 * torch.randn(36, generator=torch.Generator().manual_seed(0))
    rough = fit(AvgParamLaw(), losses * noise, at)
    assert rough.coefficients["alpha"] == pytest.approx(0.34, rel=0.3)


def test_the_law_of_recovery_predicts_the_tail():
    curves = [(n, r, l0) for n, l0 in ((5e8, 2.9), (3e9, 2.4)) for r in (0.15, 0.3)]
    tokens = torch.linspace(5e7, 1e9, 20)

    def at(chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        columns = zip(*[(n, r, l0) for n, r, l0 in curves for _ in chosen], strict=True)
        params, rate, dense = (torch.tensor(c, dtype=torch.float64) for c in columns)
        return {"params": params, "rate": rate, "dense_loss": dense, "tokens": chosen.repeat(len(curves))}

    known, tail = at(tokens[:10]), at(tokens[10:])
    found = fit(P2Law(), P2(**known), known)
    assert ((found(**tail) - P2(**tail)).abs() / P2(**tail)).max() < 0.01
    assert slope_difference(P2(**tail), P2(**tail)) == 0
    assert slope_difference(found(**tail), P2(**tail)) < 1e-3
    assert found.coefficients["gamma"] == pytest.approx(-1.3, abs=0.1)
    assert broken(found, 5e8) == []


def test_the_planner_stops_where_the_closed_form_says():
    k = factor(P2, 1e9, 0.3)
    d = tokens_until(P2, 1e9, 0.3, gap=0.05)
    assert d == pytest.approx((80.0 * k / 0.05) ** (1 / 0.25))
    at = {"params": 1e9, "rate": 0.3, "dense_loss": 2.5}
    assert float(P2(tokens=d, **at)) - floor(P2, 1e9, 0.3, 2.5) == pytest.approx(0.05)
    d = tokens_until(P2, 1e9, 0.3, slope=1e-10)
    falls = float(P2(tokens=d * 0.999, **at) - P2(tokens=d * 1.001, **at)) / (0.002 * d)
    assert falls == pytest.approx(1e-10, rel=1e-3)
    with pytest.raises(ResproutError, match="one of them"):
        tokens_until(P2, 1e9, 0.3)


def test_a_law_says_what_it_breaks_and_what_it_needs():
    odd = Fitted(P2Law(), {**P2.coefficients, "gamma": 1.0, "E": -9.0})
    assert len(broken(odd, 1e9)) == 2
    with pytest.raises(ResproutError, match="law of"):
        CHINCHILLA(tokens=3.0)
    with pytest.raises(ResproutError, match="positive losses"):
        fit(AvgParamLaw(), [1.0, 2.0], {"average_params": [1.0, 2.0], "tokens": [1.0, 2.0]})
    assert math.isclose(average([1.0, 0.5]), 0.75)
