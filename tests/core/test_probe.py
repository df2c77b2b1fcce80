"""`Probe`: what it measures is right, and it leaves no trace."""

import collections
import copy
import math

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.masks import Masks
from resprout.core.probe import Probe


class Net(nn.Module):
    """Two linear layers, a norm, dropout and a weight that nothing uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.drop, self.unused = nn.Dropout(0.5), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def smooth() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def data(n: int = 3, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(5)
    return [(torch.randn(6, 3, generator=g).to(dtype), torch.randint(2, (6,), generator=g)) for _ in range(n)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def by_hand(model: nn.Module, batch: tuple[Tensor, Tensor], names: list[str]) -> list[Tensor]:
    params = dict(model.named_parameters())
    return list(torch.autograd.grad(loss(model, batch), [params[n] for n in names]))


def test_gradients_and_fisher_are_means_over_batches():
    model, batches = smooth(), data(dtype=torch.float64)
    rs.prune(model, 0.5, allocate="uniform")
    probe = Probe(model, Masks.of(model), batches, loss)
    each = [by_hand(model, b, probe.names) for b in batches]
    grads, fisher = probe.gradients(), probe.fisher()
    for i, name in enumerate(probe.names):
        torch.testing.assert_close(grads[name], sum(g[i] for g in each) / 3)
        torch.testing.assert_close(fisher[name], sum(g[i] ** 2 for g in each) / 3)
    assert [list(g) for g in probe.per_batch()] == [probe.names] * 3


def test_dead_weights_get_gradients():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    masks = Masks({"weight": torch.tensor([[False, False]])})
    probe = Probe(model, masks, [torch.tensor([[3.0, -5.0]])], lambda m, x: m(x).sum())
    assert probe.gradients()["weight"].tolist() == [[3.0, -5.0]]


def test_hessian_product_is_that_of_the_whole_hessian():
    model, batches = smooth(), data(2, torch.float64)
    probe = Probe(model, None, batches, loss)
    start = probe.weights()
    sizes = [w.numel() for w in start.values()]

    def total(flat: Tensor) -> Tensor:
        parts = zip(start, flat.split(sizes), strict=True)
        weights = {n: part.view(start[n].shape) for n, part in parts}
        return sum(loss_of(weights, b) for b in batches) / 2

    def loss_of(weights: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, weights, (batch[0],)), batch[1])

    at = torch.cat([w.reshape(-1) for w in start.values()])
    hessian = torch.autograd.functional.hessian(total, at)
    assert hessian.abs().max() > 1e-3
    vectors = {n: torch.randn_like(w) for n, w in start.items()}
    for given, v in ((vectors, vectors), (None, probe.gradients())):
        want = hessian @ torch.cat([t.reshape(-1) for t in v.values()])
        got = torch.cat([t.reshape(-1) for t in probe.hessian_product(given).values()])
        torch.testing.assert_close(got, want)


def test_hessian_of_a_linear_loss_is_zero_and_unused_weights_have_none():
    probe = Probe(nn.Linear(3, 1), None, [torch.ones(2, 3)], lambda m, x: m(x).sum())
    assert not probe.hessian_product()["weight"].any()
    probe = Probe(Net(), None, data(), loss)
    assert not probe.gradients()["unused.weight"].any()
    assert not probe.hessian_product()["unused.weight"].any()
    assert probe.hessian_product()["first.weight"].any()


@pytest.mark.parametrize("held", [False, True])
def test_at_anchor_sees_the_dense_weights_and_their_gradients(held):
    dense = smooth()
    sparse = copy.deepcopy(dense)
    masks = rs.prune(sparse, 0.8, allocate="uniform")
    if held:
        rs.hold(sparse, masks, torch.optim.SGD(sparse.parameters(), 0.1))
    batches = data(dtype=torch.float64)
    probe = Probe(sparse, masks, batches, loss, anchor=dense.state_dict())
    there, plain = probe.at_anchor(), Probe(dense, None, batches, loss)
    assert probe.at_anchor() is there
    assert there.masks.sparsity == 0
    for name in probe.names:
        assert torch.equal(there.weights()[name], dict(dense.named_parameters())[name])
        torch.testing.assert_close(there.gradients()[name], plain.gradients()[name])
        assert not torch.equal(there.gradients()[name], probe.gradients()[name])
        torch.testing.assert_close(probe.anchor()[name], plain.weights()[name])


def test_at_anchor_uses_the_dense_networks_buffers_and_biases_in_evaluation_mode():
    dense = Net()
    sparse = copy.deepcopy(dense)
    with torch.no_grad():
        sparse.norm.running_var.fill_(100.0)
        sparse.last.bias.fill_(3.0)
    batches = data()
    there = Probe(sparse, None, batches, loss, dense.state_dict(), training=False).at_anchor()
    want = Probe(dense, None, batches, loss, training=False).gradients()
    torch.testing.assert_close(there.gradients()["first.weight"], want["first.weight"])


def trace(model: nn.Module) -> dict[str, object]:
    """Everything that a probe might leave behind."""
    return {
        "bits": [t.numpy().tobytes() for t in model.state_dict().values()],
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone().numpy().tobytes() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "parameters": [id(p) for p in model.parameters()],
        "random": torch.get_rng_state().numpy().tobytes(),
    }


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(training):
    model, batches = Net(), data()
    model.eval()
    model.norm.train()  # an odd state of modes must come back too
    loss(model, batches[0]).backward()
    dense = copy.deepcopy(model.state_dict())
    before = trace(model)
    probe = Probe(model, None, batches, loss, dense, training=training)
    seen = []
    probe.gradients(), probe.fisher(), probe.hessian_product(), list(probe.per_batch())
    probe.at_anchor().gradients()
    probe.call({n: w + 1 for n, w in probe.weights().items()}, batches[0][0])
    probe.watch(["first"], lambda name, out: seen.append((name, out.shape)))
    assert trace(model) == before
    assert seen == [("first", (6, 4))] * 3
    with pytest.raises(rs.ResproutError):
        Probe(model, None, [(torch.ones(2, 9), batches[0][1])], loss).gradients()
    with pytest.raises(ZeroDivisionError):
        probe.watch(["first"], lambda name, out: 1 / 0)
    assert trace(model) == before


def test_a_held_model_and_its_guard_are_left_alone():
    model, batches = Net(), data()
    masks = rs.prune(model, 0.5, ignore=["unused"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rs.hold(model, masks, optimizer)
    before = trace(model)
    Probe(model, masks, batches, loss).hessian_product()
    assert trace(model) == before


def test_it_is_repeatable_with_dropout():
    model, batches = Net(), data()
    a, b, c = (Probe(model, None, batches, loss, seed=s).gradients()["last.weight"] for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_live_gradients_are_used_as_they_are():
    model = nn.Linear(2, 1)
    live = {"weight": torch.tensor([[2.0, -3.0]])}
    probe = Probe(model, live=live)
    assert probe.gradients() is live
    assert probe.fisher()["weight"].tolist() == [[4.0, 9.0]]


Batch = collections.namedtuple("Batch", ["x", "y"])


def test_batches_may_be_named_tuples_mappings_and_lists():
    model, (x, y) = smooth(), data(1, torch.float64)[0]
    want = Probe(model, None, [(x, y)], loss).gradients()["0.weight"]
    cases = [
        ([Batch(x, y)], lambda m, b: loss(m, (b.x, b.y))),
        ([{"x": x, "y": y}], lambda m, b: loss(m, (b["x"], b["y"]))),
        ([[x, [y]]], lambda m, b: loss(m, (b[0], b[1][0]))),
    ]
    for batches, fn in cases:
        probe = Probe(model, None, batches, fn)
        torch.testing.assert_close(probe.gradients()["0.weight"], want)
        assert probe.input_shape() == (6, 3)


def test_a_data_loader_will_do():
    x, y = data(1)[0]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    probe = Probe(smooth().float(), None, loader, loss)
    assert len(list(probe.per_batch())) == 2
    assert probe.input_shape() == (3, 3)


@pytest.mark.parametrize(
    ("batches", "fn", "match"),
    [
        (None, loss, r"pass data=\[batch, ...\] and loss="),
        (data(), None, r"pass data=\[batch, ...\] and loss="),
        ([], loss, "data= is empty"),
        (iter(data()), loss, "pass a list of batches, not an iterator"),
        (
            [(torch.ones(2, 7), torch.tensor([0, 1]))],
            loss,
            r"cannot take this batch \(tuple\(float32\[2, 7\], int64\[2",
        ),
        ([torch.ones(2, 3)], loss, r"cannot take this batch \(float32\[2, 3\]\)"),
        ([(torch.ones(2, 3), torch.tensor([0, 9]))], loss, "cannot take this batch"),
        (["text"], loss, r"cannot take this batch \(str\)"),
        (data(), lambda m, b: m(b[0]), r"must return a scalar tensor, got float32\[6, 2\]"),
        (data(), lambda m, b: float(m(b[0]).sum().detach()), "must return a scalar tensor, got float"),
        (data(), lambda m, b: m(b[0]).sum() * math.nan, "the loss is nan"),
        (data(), lambda m, b: m(b[0]).sum() * math.inf, "the loss is -?inf"),
        (data(), lambda m, b: m(b[0]).detach().sum(), "does not depend on the weights"),
    ],
)
def test_bad_data_and_losses_are_clear_errors(batches, fn, match):
    model = smooth().float()
    before = trace(model)
    with pytest.raises(rs.ResproutError, match=match):
        Probe(model, None, batches, fn).gradients()
    assert trace(model) == before


def test_masks_or_an_anchor_of_another_model_are_refused():
    with pytest.raises(rs.ResproutError, match=r"'9.weight' of shape \(2,\), which Sequential does not have"):
        Probe(smooth(), Masks({"9.weight": torch.ones(2, dtype=torch.bool)}))
    with pytest.raises(rs.ResproutError, match=r"'0.weight' of shape"):
        Probe(smooth(), Masks({"0.weight": torch.ones(2, dtype=torch.bool)}))
    with pytest.raises(rs.ResproutError, match="pass anchor=dense_model"):
        Probe(smooth()).anchor()
    with pytest.raises(rs.ResproutError, match=r"the anchor has no '0.weight'"):
        Probe(smooth(), anchor=nn.Linear(3, 4).state_dict()).at_anchor()
