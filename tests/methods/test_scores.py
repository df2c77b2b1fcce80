"""One value per score that can be checked by hand.

The network is y = w . x with loss (y - 1)^2 / 2, so dL/dw = (y - 1) x, and its Hessian is x x^T.
"""

import pytest
import torch
from torch import nn

from resprout.core import select
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.methods.score.expected_gain import ExpectedGain
from resprout.methods.score.fisher import Fisher
from resprout.methods.score.gradient import Gradient
from resprout.methods.score.grasp import Grasp
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.movement import Movement
from resprout.methods.score.newton_gain import NewtonGain
from resprout.methods.score.random import Random
from resprout.methods.score.saliency import Saliency
from resprout.methods.score.snip import Snip
from resprout.methods.score.synflow import Synflow, flow
from resprout.methods.score.taylor import Taylor


def probe(anchor=None, seed=0):
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
    data = [torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, -1.0]])]  # y = -1 and 3, dL/dy = -2 and 2
    loss = lambda m, x: (m(x) - 1).square().sum() / 2  # noqa: E731
    return Probe(model, data=data, loss=loss, anchor=anchor, seed=seed)


# batch gradients (-2, -6) and (2, -2): mean (0, -4), mean square (4, 20)
@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Magnitude(), [2, 1]),
        (Gradient(), [0, 4]),
        (Taylor(), [0, 4]),
        (Fisher(), [8, 10]),
        (Snip(), [0, 1]),
        (Movement(), [0, -4]),
        (Grasp(), [2 * -4, -1 * -20]),  # H = [[1, 1], [1, 5]], H g = (-4, -20)
        (NewtonGain(damping=0), [0, 16 / 40]),
        (NewtonGain(damping=1), [0, 16 / (2 * (20 + 12))]),
    ],
)
def test_by_hand(score, expected):
    assert select.dense(score(probe())["weight"]).flatten().tolist() == pytest.approx(expected)


def test_expected_gain_looks_at_the_anchor():
    found = ExpectedGain()(probe({"weight": torch.tensor([[1.0, 0.5]])}))
    assert select.dense(found["weight"]).flatten().tolist() == pytest.approx(
        [-(0 + 4 / 2), -(-4 * 0.5 + 20 * 0.25 / 2)]
    )
    with pytest.raises(ResproutError, match="anchor=dense_model"):
        ExpectedGain()(probe())


def test_saliency_is_the_dense_networks_own():
    """At the anchor (1, 0): y = 1 and 1, no gradient; at (1, 1): y = 4 and 0, gradients (3, 9) and (-1, 1)."""
    at = lambda *w: select.dense(Saliency()(probe({"weight": torch.tensor([w])}))["weight"]).flatten()  # noqa: E731
    assert at(1.0, 0.0).tolist() == [0, 0]
    assert at(1.0, 1.0).tolist() == pytest.approx([(9 + 1) / 2, (81 + 1) / 2])
    with pytest.raises(ResproutError, match="anchor=dense_model"):
        Saliency()(probe())


def test_random_is_seeded():
    first, again, other = (Random()(probe(seed=s))["weight"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 5)
    )


def test_synaptic_flow_is_conserved():
    """The flow through each layer sums to R (paper, theorem 2), here divided by R."""
    model = mlp()
    flows = flow(Probe(model), Masks.dense(model), (20,))
    assert [float(f.sum()) for f in flows.values()] == pytest.approx([1.0] * 4)


def test_synflow_by_hand():
    """One input, two hidden units: R = 1 * |3| * |1| + 1 * |-1| * |2| = 5, so the flows are 3/5 and 2/5."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [-1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, -2.0]]))
    flows = flow(Probe(model), Masks.dense(model), (1,))
    assert flows["0.weight"].flatten().tolist() == pytest.approx([0.6, 0.4])
    order = Synflow(rounds=2, down_to=0.25, shape=(1,))(Probe(model))
    assert sorted(torch.cat([select.dense(o).flatten() for o in order.values()]).tolist()) == [1, 2, 3, 4]


def test_synflow_collapses_no_layer_where_one_round_does():
    """Any cut down to one path's width leaves every layer some weights (the paper's axiom)."""
    model = mlp()
    with torch.no_grad():
        model[4].weight.mul_(1e-2)
    probe = Probe(model)
    order = Synflow(rounds=60, down_to=0.01, shape=(20,))(probe)
    for keep in (400, 100, 30, 10):
        assert min(select.top(order, keep).counts.values()) > 0, keep
    assert min(select.top(Magnitude()(probe), 400).counts.values()) == 0


def test_synflow_ranks_the_dead_lowest():
    model = mlp()
    masks = select.top(Magnitude()(Probe(model)), 500)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in masks:
                p.mul_(masks[n])
    order = Synflow(rounds=5, shape=(20,))(Probe(model, masks))
    assert select.top(order, 500) == masks
