"""Optimal brain apoptosis: quadratics, the explicit Hessian, coupled units, and how well removals are foretold."""

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.probe import Probe
from resprout.methods.score._apoptosis import attribution, units
from resprout.methods.score.oba import Oba
from resprout.methods.score.oba_weight import ObaWeight


def quadratic(h: torch.Tensor, theta: torch.Tensor) -> Probe:
    """L = theta^T H theta / 2."""
    model = nn.Linear(len(theta), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(theta[None])
    return Probe(model, data=[h], loss=lambda m, h: (m(h)[:, 0] * m.weight[0]).sum() / 2)


def test_the_catalogues_example():
    """H = [[1, .9], [.9, 1]], theta = (1, -1): (0.05, 0.05), where the diagonal alone says (0.5, 0.5)."""
    probe = quadratic(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.tensor([1.0, -1.0]))
    assert attribution(probe)["weight"].tolist() == [pytest.approx([0.05, 0.05])]


def test_parts_sum_to_the_loss_of_a_quadratic_and_a_groups_part_has_its_cross_terms():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=g)
    h, theta = a @ a.T, torch.randn(6, generator=g)
    part = attribution(quadratic(h, theta))["weight"][0]
    assert float(part.sum()) == pytest.approx(float(theta @ h @ theta) / 2, rel=1e-5)
    own = theta[:3] @ h[:3] @ theta / 2
    assert float(part[:3].sum()) == pytest.approx(float(own), rel=1e-5)


def mlp() -> tuple[nn.Sequential, list, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    g = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, 3, generator=g), torch.randint(3, (8,), generator=g)) for _ in range(2)]
    return model, batches, nn.CrossEntropyLoss()


def flat_hessian(model, batches) -> torch.Tensor:
    names = ["0.weight", "2.weight"]
    params = dict(model.named_parameters())
    shapes = [params[n].shape for n in names]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes])
        given = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        out = [nn.functional.cross_entropy(torch.func.functional_call(model, given, (x,)), y) for x, y in batches]
        return torch.stack(out).mean()

    return torch.autograd.functional.hessian(loss, torch.cat([params[n].detach().flatten() for n in names]))


def test_products_and_forms_equal_the_explicit_hessian():
    model, batches, loss = mlp()
    probe = Probe(model, data=batches, loss=lambda m, b: loss(m(b[0]), b[1]))
    h = flat_hessian(model, batches).double()
    theta = torch.cat([w.flatten() for w in probe.weights().values()]).double()
    found = torch.cat([a.flatten() for a in attribution(probe).values()]).double()
    assert torch.allclose(found, theta * (h @ theta) / 2, atol=1e-6)
    place = torch.zeros(4, 3, dtype=torch.bool)
    place[1] = True
    v = torch.cat([(probe.weights()["0.weight"] * place).flatten(), torch.zeros(12)]).double()
    form = probe.hessian_forms([{"0.weight": probe.weights()["0.weight"] * place}, probe.weights()])
    assert form.tolist() == pytest.approx([float(v @ h @ v), float(theta @ h @ theta)], abs=1e-6)


def test_units_take_rows_and_the_columns_that_read_them():
    model, batches, loss = mlp()
    probe = Probe(model, data=batches, loss=lambda m, b: loss(m(b[0]), b[1]))
    probe.groups = rs.trace(model, batches[0][0][:1]).groups
    found = list(units(probe))
    assert len(found) == 4 + 3  # hidden units, and the rows of the output
    assert {n: int(p.sum()) for n, p in found[1].places.items()} == {"0.weight": 3, "2.weight": 3}
    assert bool(found[1].places["0.weight"][1].all())
    assert bool(found[1].places["2.weight"][:, 1].all())


def test_by_scope():
    model, batches, loss = mlp()
    probe = Probe(model, data=batches, loss=lambda m, b: loss(m(b[0]), b[1]))
    probe.groups = rs.trace(model, batches[0][0][:1]).groups
    h, w = flat_hessian(model, batches).double(), probe.weights()
    theta = torch.cat([w["0.weight"].flatten(), w["2.weight"].flatten()]).double()
    g = torch.cat([t.flatten() for t in probe.gradients().values()]).double()
    every, alone = [], []
    for u in range(4):
        place = torch.zeros(24, dtype=torch.bool)
        place[:12].view(4, 3)[u], place[12:].view(3, 4)[:, u] = True, True
        every.append(float((theta * (h @ theta))[place].sum() / 2))
        v = theta * place
        alone.append(float(v @ h @ v / 2 - g @ v))
    mean = sum(map(abs, every)) / 4
    assert Oba("all")(probe)["0.weight"][:, 0].tolist() == pytest.approx([abs(e) / mean for e in every], rel=1e-4)
    assert Oba("group")(probe)["0.weight"][:, 0].tolist() == pytest.approx(alone, abs=1e-6)
    with pytest.raises(ResproutError, match="scope"):
        Oba("layer")  # pyright: ignore[reportArgumentType]


def test_the_groups_own_form_foretells_removals_better(capsys):
    """Against the oracle on a trained network: the loss with each hidden unit taken out alone."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(bunch.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    for step in range(200):
        at = torch.arange(step * 64, step * 64 + 64) % 1500
        nn.functional.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()
        optimizer.zero_grad()
    batches = [(x[i : i + 250], y[i : i + 250]) for i in (0, 250)]
    probe = Probe(model, data=batches, loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))
    probe.groups = rs.trace(model, x[:1]).groups
    with torch.no_grad():
        base = sum(float(probe.loss(b)) for b in batches)
        oracle = []
        for u in list(units(probe))[:24]:
            gone = {n: probe.weights()[n] * ~u.places.get(n, torch.tensor(False)) for n in probe.names}
            oracle.append(sum(float(probe.loss(b, gone)) for b in batches) - base)
    found = {s: Oba(s)(probe)["0.weight"][:, 0] for s in ("all", "group")}  # pyright: ignore[reportArgumentType]
    r = {s: float(torch.corrcoef(torch.stack([f, torch.tensor(oracle)]))[0, 1]) for s, f in found.items()}
    print(r)
    assert r["group"] > 0.8
    assert r["group"] > r["all"]


def test_single_weights_are_shares_of_their_tensor():
    model, batches, loss = mlp()
    probe = Probe(model, data=batches, loss=lambda m, b: loss(m(b[0]), b[1]))
    for score in ObaWeight()(probe).values():
        assert float(score.mean()) == pytest.approx(1, abs=1e-4)
