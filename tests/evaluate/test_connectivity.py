import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import resprout as rs
from resprout.compare.train import train
from resprout.core.errors import ResproutError
from resprout.core.norms import refresh
from resprout.evaluate.connectivity import between, cka, features, mode_connectivity, similarity
from resprout.tasks.digits import digits


def norm_task() -> rs.Arrays:
    g = torch.Generator().manual_seed(0)
    x, y = 3 + 2 * torch.randn(64, 1, 4, 4, generator=g), torch.randint(2, (64,), generator=g)
    return rs.Arrays((x, y), (x[:16], y[:16]), (x[:16], y[:16]), batch_size=16, name="norms")


def with_norm(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    train(model, digits(), 150, lr=0.05)
    return model


def permuted(model: nn.Sequential) -> nn.Sequential:
    """The same function: the units of the first hidden layer in another order."""
    other, order = copy.deepcopy(model), torch.randperm(48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        other[1].weight.copy_(model[1].weight[order])
        other[1].bias.copy_(model[1].bias[order])
        other[3].weight.copy_(model[3].weight[:, order])
    return other


@pytest.mark.parametrize(
    ("values", "mc"),
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.1, 0.6, 0.2], -0.45),
        ([0.4, 0.1, 0.2, 0.4], 0.3),
        ([0.1, 0.2, 0.05, 0.1], -0.1),
        ([0.25, 0.5, 0.0, 0.25], -0.25),  # of two that are as far, the barrier
    ],
)
def test_mode_connectivity_by_hand(values, mc):
    assert mode_connectivity(values) == pytest.approx(mc)


def test_the_same_weights_are_connected_and_alike(trained):
    line = between(trained, copy.deepcopy(trained), digits())
    assert line.connectivity == 0
    assert len(line.values) == 11
    assert (line.places[0], line.places[-1]) == (0, 1)
    assert similarity(trained, trained, digits()) == pytest.approx(1)


def test_permuted_units_are_alike_behind_a_barrier(trained):
    other = permuted(trained)
    line = between(trained, other, digits(), points=5)
    assert line.values[0] == pytest.approx(line.values[-1], abs=0.002)
    assert line.connectivity < -0.1
    for layer in (None, "1", "3"):
        assert similarity(trained, other, digits(), layer=layer) == pytest.approx(1, abs=1e-5)
    torch.manual_seed(5)
    stranger = nn.Sequential(*[copy.deepcopy(m) for m in trained])
    for m in stranger:
        if isinstance(m, nn.Linear):
            m.reset_parameters()
    assert similarity(trained, stranger, digits()) < 0.9


def test_loss_is_measured_on_the_line(trained):
    other, task = permuted(trained), digits()
    line = between(trained, other, task, points=3, measure="loss", split="validation")
    middle = copy.deepcopy(trained)
    with torch.no_grad():
        for w, v in zip(middle.parameters(), other.parameters(), strict=True):
            w.copy_((w + v) / 2)
    expected = [task.evaluate(m.eval(), "validation")["loss"] for m in (trained, middle, other)]
    assert line.values == pytest.approx(expected, rel=1e-4)


def test_norms_are_taken_anew_at_every_point():
    task, a, b = norm_task(), with_norm(0), with_norm(1)
    with torch.no_grad():
        a[1].running_mean.fill_(77.0)  # worthless, and so are the ends without a refresh
    kept = [copy.deepcopy(m.state_dict()) for m in (a, b)]
    line = between(a, b, task, points=3)
    middle = with_norm(0)
    with torch.no_grad():
        for w, v, u in zip(middle.parameters(), a.parameters(), b.parameters(), strict=True):
            w.copy_((v + u) / 2)
    refresh(middle, task)
    assert line.values[1] == pytest.approx(1 - task.evaluate(middle.eval(), "train")["accuracy"])
    for m, state in zip((a, b), kept, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in m.state_dict().items())


def test_a_refresh_is_the_mean_over_batches():
    task, model = norm_task(), with_norm().train()
    model[0].eval()
    refresh(model, task)
    with torch.no_grad():
        seen = [model[0](x) for x, _ in task.batches("train")]
    assert model[1].running_mean == pytest.approx(torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0), rel=1e-4)
    variance = torch.stack([s.transpose(0, 1).flatten(1).var(1) for s in seen]).mean(0)
    assert model[1].running_var == pytest.approx(variance, rel=1e-4)
    assert model[1].momentum == 0.1
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    refresh(model, task, batches=1)
    assert model[1].running_mean == pytest.approx(seen[0].mean((0, 2, 3)), rel=1e-4)


@pytest.mark.parametrize(("n", "p", "q"), [(50, 4, 7), (6, 20, 9)])
def test_cka_against_its_definition(n, p, q):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(n, p)), draw.normal(size=(n, q))
    centre = np.eye(n) - 1 / n
    hsic = lambda k, m: np.trace(k @ centre @ m @ centre)  # noqa: E731
    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected)


def test_cka_does_not_see_rotation_scale_or_shift():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g)
    turned = x @ torch.linalg.qr(torch.randn(6, 6, generator=g))[0] * 3 + 1
    assert cka(x, turned) == pytest.approx(1, abs=1e-5)
    assert math.isnan(cka(x, torch.ones(40, 2)))


def test_features_are_those_of_the_layer(trained):
    x = torch.randn(7, 1, 8, 8)
    assert torch.allclose(features(trained, x, "1"), trained[:2](x))
    assert features(trained, x).shape == (7, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: mode_connectivity([1.0, 2.0]), "three"),
        (lambda m: between(m, with_norm(), norm_task()), "architecture"),
        (lambda m: between(m, m, norm_task(), points=2), "points"),
        (lambda m: between(with_norm(), with_norm(), norm_task(), measure="los"), "loss"),
        (lambda m: refresh(with_norm(), norm_task(), 0), "batches"),
        (lambda m: cka(torch.ones(3, 2), torch.ones(4, 2)), "same"),
        (lambda m: similarity(m, m, digits(), layer="33"), "layer"),
        (lambda m: similarity(m, m, digits(), samples=1), "samples"),
    ],
)
def test_bad_input_is_named(trained, call, says):
    with pytest.raises(ResproutError, match=says):
        call(trained)
