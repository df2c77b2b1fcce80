"""Adversarial saliency and its factors, MART, and the pruner of MIA-Pruning."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.train import Optimizer, Train
from resprout.evaluate.attack import attacked
from resprout.methods.objective.mart import Mart, mart
from resprout.methods.recipe.mia_prune import MiaPrune
from resprout.methods.rule.admm import Admm
from resprout.methods.schedule.constant import Constant
from resprout.methods.score._soft_mask import masked
from resprout.methods.score.mad import Mad
from resprout.numerics.kfac import factors
from resprout.tasks.digits import digits


def test_rows_are_the_kronecker_quadratic_without_what_couples_outputs(tiny, batches, loss):
    """Catalogue: sum over j of dL_ij = 1/2 G_ii d_i' A d_i, and that is d'(G (x) A)d with the off-diagonal of G at 0."""
    probe = Probe(tiny, data=batches, loss=loss)
    for name, f in factors(probe, batches[0], probe.names).items():
        change = torch.randn_like(probe.weights()[name]).double()
        f = dataclasses.replace(f, inputs=f.inputs.double(), outputs=f.outputs.double())
        rows, d = f.rows(change).reshape(len(change), -1), change.reshape(len(change), -1)
        assert f.inputs.shape[0] == 1
        whole = torch.kron(torch.diag(f.outputs[0].diagonal()), f.inputs[0])
        assert float(rows.sum()) == pytest.approx(float(d.reshape(-1) @ whole @ d.reshape(-1)) / 2, rel=1e-6)
        each = torch.stack([0.5 * f.outputs[0, i, i] * (r @ f.inputs[0] @ r) for i, r in enumerate(d)])
        assert torch.allclose(rows.sum(1), each, rtol=1e-6)


def test_factors_of_one_linear_layer_are_those_of_its_samples():
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3, bias=False)), torch.randn(6, 4), torch.randint(3, (6,))
    probe = Probe(model, data=[(x, y)], loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    found = factors(probe, (x, y), ["0.weight"])["0.weight"]
    g = (model(x).softmax(1) - F.one_hot(y, 3)).detach()  # of each sample's own loss
    assert torch.allclose(found.outputs[0], g.T @ g / 6, atol=1e-6)
    assert torch.allclose(found.inputs[0], x.T @ x / 6, atol=1e-6)


def test_factors_of_a_grouped_convolution_have_its_groups(loss):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 3))
    batch = (torch.randn(5, 4, 4, 4), torch.randint(3, (5,)))
    probe = Probe(model, data=[batch], loss=loss)
    found = factors(probe, batch, probe.names)["0.weight"]
    assert found.inputs.shape == (2, 18, 18)
    assert found.outputs.shape == (2, 3, 3)
    assert found.rows(torch.randn(6, 2, 3, 3)).shape == (6, 2, 3, 3)


def test_factors_do_not_mind_what_is_done_in_place(loss):
    """A ReLU in place overwrites what the layer before it put out."""
    torch.manual_seed(0)
    x, y = torch.randn(5, 6), torch.randint(3, (5,))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    found = [factors(Probe(model, data=[(x, y)], loss=loss), (x, y), ["0.weight"])["0.weight"]]
    model[1] = nn.ReLU(inplace=True)
    found.append(factors(Probe(model, data=[(x, y)], loss=loss), (x, y), ["0.weight"])["0.weight"])
    assert torch.equal(found[0].outputs, found[1].outputs)


def test_the_saliency_is_that_of_the_masked_network(loss):
    """The mask is a minimum of the loss, so it is there that the quadratic form begins."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(32, 6) * 2 + 1, torch.randint(3, (32,))
    for _ in range(20):
        model(x)
    mad, probe = Mad(epsilon=0.0), Probe(model, data=[(x, y)], loss=loss, training=False)
    model.eval()
    soft, w = masked(probe, (x, y), mad.rounds, mad.lr), probe.weights()
    assert probe.loss((x, y), soft) < loss(model, (x, y))
    shares = torch.cat([(s / w[n]).flatten() for n, s in soft.items()])
    assert 0 <= shares.min() < 0.5
    assert shares.max() == 1
    there = factors(probe, (x, y), probe.names, soft)
    probe.training = True  # whatever mode others are scored in
    for n, found in mad(probe).items():
        assert torch.allclose(found, there[n].rows(w[n] - soft[n]))


def test_without_products_no_saliency_is_negative(tiny, batches, loss):
    probe = Probe(tiny, data=batches, loss=loss)
    assert all(s.min() >= 0 for s in Mad(products=False)(probe).values())
    f = next(iter(factors(probe, batches[0], probe.names).values()))
    change = torch.randn(len(f.outputs[0]), f.inputs.shape[1])
    by_hand = 0.5 * f.outputs[0].diagonal()[:, None] * f.inputs[0].diagonal() * change.square()
    assert torch.allclose(f.rows(change, products=False), by_hand)


def test_a_mask_of_ones_has_no_saliency(tiny, batches, loss):
    probe = Probe(tiny, data=batches, loss=loss)
    none = Mad(rounds=0)(probe)
    assert all(not s.any() for s in none.values())
    assert any(s.any() for s in Mad(rounds=2, steps=2)(probe).values())


def test_what_no_attack_can_take_is_said(tiny, batches, loss):
    for wrong in ({"epsilon": -0.1}, {"epsilon": float("nan")}, {"step": -0.1}, {"steps": -1}):
        with pytest.raises(ResproutError, match="epsilon, step and steps"):
            Mad(**wrong)(Probe(tiny, data=batches, loss=loss))
    words = [(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))]
    for data in (words, [{"x": batches[0][0]}], [[]], [["a", "b"]]):
        with pytest.raises(ResproutError, match="inputs that are numbers"):
            Mad()(Probe(tiny, data=data, loss=loss))
    with pytest.raises(ResproutError, match="loss is nan"):
        Mad()(Probe(tiny, data=[(batches[0][0] * float("nan"), batches[0][1])], loss=loss))
    with pytest.raises(ResproutError, match="data="):
        Mad()(Probe(tiny, loss=loss))


@pytest.mark.parametrize("robustly", [True, False])
def test_weights_of_features_that_an_attack_turns_round(robustly):
    """Catalogue: on features that are robust (large, sometimes wrong) or not (small, always right) the latter's weights go first.

    So it is after adversarial training, as published. Where there was none it is the other way round: the mask turns down what
    the attack used, and what has changed most is kept.
    """
    g = torch.Generator().manual_seed(0)
    y = torch.randint(2, (512,), generator=g)
    sign = (y * 2 - 1).float()[:, None]
    robust = sign * torch.where(torch.rand(512, 3, generator=g) < 0.9, 1.0, -1.0)
    weak = sign * 0.1 + 0.02 * torch.randn(512, 5, generator=g)
    whole = (torch.cat([robust, weak], 1), y)

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 2, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        batch = attacked(lambda b: loss(model, b), whole, 0.2, 0.05, 5) if robustly else whole
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    found = Mad(epsilon=0.2, step=0.05)(Probe(model, data=[(whole[0][i::4], y[i::4]) for i in range(4)], loss=loss))[
        "0.weight"
    ]
    assert bool(found.sum(0)[3:].max() < found.sum(0)[:3].min()) == robustly


def test_mart_by_hand_and_without_an_attack():
    clean, said = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    p, q = clean.softmax(1)[0], said.softmax(1)[0]
    kl = float((p * (p / q).log()).sum())
    by_hand = float(-q[0].log() - (1.0001 - q[1]).log()) + 0.5 * kl * float(1 - p[0])
    assert float(mart(clean, said, torch.tensor([0]), 0.5)) == pytest.approx(by_hand, rel=1e-5)
    task = dataclasses.replace(digits(), pad=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).train()
    run, batch = Run(model, task), next(iter(task.batches("train")))
    still, hit = (float(Mart(epsilon=e)(run, model, batch).detach()) for e in (0.0, 0.1))
    assert still < hit
    assert model.training


def line() -> tuple[nn.Module, rs.Arrays, torch.Tensor]:
    """Least squares with a sparse truth, as a task."""
    g = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 20)
    truth[0, ::4] = torch.tensor([1.0, -2.0, 1.5, 1.0, -1.0])
    x = torch.randn(400, 20, generator=g)
    pair = (x, x @ truth.T)

    class Squares(rs.Arrays):
        metric = "fit"

        def loss(self, model: nn.Module, batch: tuple) -> torch.Tensor:
            return (model(batch[0]) - batch[1]).square().mean() / 2

        def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
            return {"fit": -float(self.loss(model, pair))}

    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 1, bias=False)), Squares(pair, pair, pair, batch_size=100), truth


def test_admm_on_least_squares_comes_to_a_sparse_point():
    """Catalogue: |W - Z| goes to 0, and the point is k-sparse; here it is even the true one."""
    model, task, truth = line()
    with torch.no_grad():
        model[0].weight[0, 1] = 3.0  # a large weight that should not be
    run, gaps = Run(model, task), []

    class Watched(Admm):
        def after_step(self, run: Run, step: int, steps: int) -> None:
            gaps.append(float((run.weights()["0.weight"] - run.slots["z:0.weight"]).detach().norm()))

    plain = Optimizer(momentum=0.0, decay=0.0, nesterov=False)
    run.do(Train(600, Constant(0.1), plain, Watched(5, rho=0.3, until=0.9, every=10)))
    assert gaps[530] < 1e-3 * max(gaps[:20])
    assert run.masks.alive == 5
    assert torch.allclose(model[0].weight, truth, atol=1e-3)


def test_the_recipe_arrives():
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    result = rs.fit(
        model(), digits(), budget=0.8, epochs=10, dense_epochs=2, curve=False, out=None, recipe=MiaPrune(every=4),
        audit="calibration",
    )  # fmt: skip
    assert result.frontier[0].sparsity == pytest.approx(0.8, abs=1e-3)
    assert result.frontier[0].test > 0.5
