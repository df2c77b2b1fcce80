"""Norms, angles and margins: the identity of the logits, hand figures, invariances, and clusters that were planted."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import nn

from resprout.core.errors import ResproutError
from resprout.evaluate.geometry import Geometry, cka, classifier, correlations, of_batches, tree
from resprout.models import build


def test_norms_and_cosines_make_the_logits_again(tiny, batches):
    found, said = of_batches(tiny, batches), torch.cat([tiny.eval()(x) for x, _ in batches])
    assert torch.allclose(found.logits.float(), said, atol=1e-5)
    assert torch.equal(found.said.predicted, said.argmax(1))
    assert torch.equal(found.labels, torch.cat([y for _, y in batches]))
    assert torch.allclose(found.said.confidence, said.double().softmax(1).amax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet20", (3, 32, 32)), ("digits_cnn", (1, 8, 8)), ("vit_tiny_p4", (3, 32, 32))]
)
def test_the_identity_on_real_networks(name, shape):
    torch.manual_seed(0)
    model, x = build(name).train(), torch.randn(6, *shape)
    found = of_batches(model, [(x, torch.arange(6))])
    assert model.training, "the network is left in the mode it was in"
    assert torch.allclose(found.logits.float(), model.eval()(x), atol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_longer_features_have_longer_norms_and_the_same_angles(tiny, batches):
    one = of_batches(tiny, batches)
    three = Geometry(3 * one.features, one.weight, one.bias, one.labels)
    assert torch.allclose(three.norms, 3 * one.norms)
    assert torch.allclose(three.angles, one.angles)
    assert torch.allclose(three.angular_margin, one.angular_margin)
    assert torch.allclose(one.with_norms(3 * one.norms).logits, three.logits)
    assert torch.allclose(three.angle_to_means(one.means), one.angle_to_means(one.means))


def test_figures_by_hand():
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double(), torch.tensor([0.5, 0.0]).double()
    features = torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]]).double()
    g = Geometry(features, weight, bias, torch.tensor([0, 0, 1]))
    assert g.norms.tolist() == [5, 2, 0]
    assert g.logits.tolist() == [[3.5, 8], [2.5, 0], [0.5, 0]]
    assert g.margin.tolist() == [-4.5, 2.5, -0.5]
    assert g.angle.tolist() == pytest.approx([math.degrees(math.atan2(4, 3)), 0, 90])
    assert g.angular_margin.tolist() == pytest.approx([90 - 2 * math.degrees(math.atan2(4, 3)), 90, 0])
    assert g.said.right.tolist() == [False, True, False]
    assert g.said.accuracy == pytest.approx(1 / 3)
    assert g.means[0].tolist() == pytest.approx([(0.6 + 1) / 2, 0.4])
    assert g.angle_to_means(g.means)[1] == pytest.approx(math.degrees(math.atan2(0.4, 0.8)))


def test_two_copies_do_not_differ(tiny, batches):
    a, b = of_batches(tiny, batches), of_batches(copy.deepcopy(tiny), batches)
    assert torch.equal(a.angle, b.angle)
    assert torch.equal(a.norms, b.norms)
    noisy = [(x + 0.3, y) for x, y in batches]
    shifts = [of_batches(m, noisy).angle - g.angle for m, g in ((tiny, a), (copy.deepcopy(tiny), b))]
    assert np.allclose(correlations(torch.stack(shifts).numpy()), 1)
    assert cka(a.features, b.features) == pytest.approx(1)


def test_correlations_against_numpy_and_of_rows_that_stand_still():
    x = np.random.default_rng(0).normal(size=(4, 50))
    assert np.allclose(correlations(x), np.corrcoef(x))
    still = correlations(np.stack([np.zeros(50), np.full(50, 2.0), x[0]]))
    assert still.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_three_copies_and_three_perturbed_networks_are_two_clusters():
    """Signatures as the study makes them: each sample's change of angle when the input is corrupted."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(200, 12, generator=g), torch.randint(5, (200,), generator=g)
    moved = x + 0.5 * torch.randn(x.shape, generator=g)
    networks = [copy.deepcopy(base) for _ in range(6)]
    noise = [0.3 * torch.randn(p.shape, generator=g) for p in base.parameters()]
    for i in (1, 3, 5):  # one perturbation, and a little of their own
        for p, n in zip(networks[i].parameters(), noise, strict=True):
            p.data += n + 0.03 * torch.randn(p.shape, generator=g)
    shifts = [of_batches(m, [(moved, y)]).angle - of_batches(m, [(x, y)]).angle for m in networks]
    found = tree(correlations(torch.stack(shifts).numpy()))
    assert found.clusters(2) == (0, 1, 0, 1, 0, 1)
    assert len(set(found.clusters(6))) <= 6


def test_the_tree_is_scipys_average_linkage():
    x = np.random.default_rng(1).normal(size=(7, 30))
    similarity = correlations(x)
    links = linkage(x, "average", metric="correlation")
    found = tree(similarity)
    assert np.allclose(found.heights, links[:, 2])
    assert list(found.order) == list(leaves_list(links))
    assert tree(np.ones((1, 1))).clusters(1) == (0,)


def test_cka_ignores_rotation_and_scale_and_sees_independence():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2000, 6, generator=g)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g))[0]
    assert cka(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-5)
    assert cka(x, torch.randn(2000, 6, generator=g)) < 0.02


def test_bad_input_is_named(tiny, batches):
    with pytest.raises(ResproutError, match="linear layer"):
        classifier(nn.Sequential(tiny, nn.Softmax(1)), batches[0][0])
    with pytest.raises(ResproutError, match="batch"):
        of_batches(tiny, [])
    with pytest.raises(ResproutError, match="same samples"):
        cka(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ResproutError, match="square"):
        tree(np.zeros((2, 3)))
