"""Relevance: conserved from layer to layer, nothing for what is not used, sums and pools split it, and pruning by it."""

import copy

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.probe import Probe
from resprout.methods.score._relevance import relevance
from resprout.methods.score.lrp import Lrp


def batches(*shape: int, classes: int = 3) -> list:
    g = torch.Generator().manual_seed(1)
    return [(torch.rand(6, *shape, generator=g), torch.randint(classes, (6,), generator=g)) for _ in range(2)]


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Residual(nn.Module):
    """Convolutions without bias, both kinds of pooling, and a sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 8, 3, padding=1, bias=False) for i in (1, 8, 8))
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.a(x).relu(), 2)
        x = x + self.c(self.b(x).relu()).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def found(model, data, alpha=1.0):
    sums = {}
    probe = Probe(model, data=data, loss=loss)
    relevance(probe, lambda n, r: sums.setdefault(n, []).append(r.detach().double().flatten(1).sum(1)), alpha)
    return {n: torch.cat(s) for n, s in sums.items()}


def test_relevance_is_conserved_without_biases():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 3, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False),
    )  # fmt: skip
    data = batches(1, 14, 14)
    logits = torch.cat([model(x).gather(1, y[:, None])[:, 0] for x, y in data]).detach().double()
    for name, sums in found(model, data).items():
        assert torch.allclose(sums, logits, rtol=1e-4, atol=1e-6), name


def test_a_sum_splits_relevance_in_proportion():
    """Both branches together have what the logit is; the layer before the sum gets all again."""
    torch.manual_seed(0)
    model, data = Residual(), batches(1, 8, 8)
    sums = found(model, data)
    logits = torch.cat([model(x).gather(1, y[:, None])[:, 0] for x, y in data]).detach().double()
    assert torch.allclose(sums["head.weight"], logits, rtol=1e-4)
    assert torch.allclose(sums["a.weight"], logits, rtol=1e-4, atol=1e-6)
    assert torch.allclose(sums["b.weight"], sums["c.weight"], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(sums["c.weight"], logits, rtol=0.1)


def test_a_layer_by_hand():
    """a = (1, 2), w = (3, -1; 1, 1): z+ of the first output is 3, so the first input has all of it."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.tensor([[3.0, -1.0], [1.0, 1.0]]))
    rows = {}
    x = torch.tensor([[1.0, 2.0]])
    for label, expected in ((0, [1.0, 0.0]), (1, [1.0, 2.0])):  # logits 1 and 3
        probe = Probe(model, data=[(x, torch.tensor([label]))], loss=loss)
        relevance(probe, lambda n, r: rows.__setitem__(n, r))
        assert rows["0.weight"].tolist() == [pytest.approx(expected)]
    probe = Probe(model, data=[(x, torch.tensor([0]))], loss=loss)
    relevance(probe, lambda n, r: rows.__setitem__(n, r), alpha=2.0)
    assert rows["0.weight"].tolist() == [pytest.approx([2.0, -1.0])]  # alpha * 1, - beta * 1


def test_planted_channels_that_nobody_reads_get_exactly_nothing():
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        model.c.weight[:, [2, 5]] = 0
    score = Lrp()(Probe(model, data=batches(1, 8, 8), loss=loss))["b.weight"][:, 0, 0, 0]
    assert score[[2, 5]].tolist() == [0, 0]
    assert (score[[0, 1, 3, 4, 6, 7]] > 0).all()
    assert float(score.sum()) == pytest.approx(1, abs=1e-5)


def test_folding_norms_leaves_the_relevance_of_the_folded_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(216, 3)
    ).train()
    data = batches(1, 8, 8)
    for x, _ in data * 5:
        model(x)
    plain = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    with torch.no_grad():
        norm, factor = model[1], model[1].weight / (model[1].running_var + model[1].eps).sqrt()
        plain[0].weight.copy_(model[0].weight * factor[:, None, None, None])
        plain[0].bias.copy_((model[0].bias - norm.running_mean) * factor + norm.bias)
        plain[3].load_state_dict(model[4].state_dict())
    a, b = (Lrp()(Probe(m, data=data, loss=loss))["0.weight"] for m in (model, plain))
    assert torch.allclose(a, b, atol=1e-6)


def test_what_it_cannot_explain_it_refuses():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ResproutError, match="labels"):
        Lrp()(Probe(model, data=[(x, torch.rand(2))], loss=loss))
    for alpha in (0.5, float("nan")):
        with pytest.raises(ResproutError, match="alpha"):
            Lrp(alpha=alpha)


def moons(n: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    t, y = torch.rand(n, generator=g) * torch.pi, torch.randint(2, (n,), generator=g)
    x = torch.stack([torch.cos(t), torch.sin(t)], 1)
    x = torch.where(y[:, None] > 0, torch.stack([1 - x[:, 0], 0.5 - x[:, 1]], 1), x)
    return x + 0.1 * torch.randn(n, 2, generator=g), y


def test_two_moons_keep_their_accuracy_with_a_third_of_the_units_gone():
    torch.manual_seed(0)
    width = 300
    layers = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 2))
    x, y = moons(1000, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(200):
        loss(model, (x, y)).backward()
        optimizer.step()
        optimizer.zero_grad()
    few = torch.cat([(y == c).nonzero()[:10, 0] for c in (0, 1)])
    data, (test, labels) = [(x[few], y[few])], moons(1000, 1)
    right = {}
    for score in ("lrp", "gradient"):
        cut = copy.deepcopy(model)
        rs.prune(cut, 1 / 3, score=score, granularity="channel", example=x[:1], data=data, loss=loss, floor=1)
        right[score] = float((cut(test).argmax(1) == labels).float().mean())
    assert right["lrp"] > 0.99
    assert right["gradient"] < 0.95
