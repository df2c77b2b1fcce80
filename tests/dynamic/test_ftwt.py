"""FTWT: targets by mass, predictors that leave the backbone alone, and multiply-adds per input."""

import copy
import math

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.run import Run
from resprout.core.train import Optimizer, Train
from resprout.dynamic._objective import fired
from resprout.dynamic.ftwt import Ftwt
from resprout.dynamic.gates import Gated, estimate, inner, mass, multiply_adds
from resprout.methods.schedule.cosine import Cosine
from resprout.models.resnet import ResNet
from resprout.tasks.digits import digits


def small() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(1).eval()


def test_targets_by_hand():
    """Catalogue: of p = (.5, .3, .2), r = .8 keeps the first two, and r = 1 all that is not zero."""
    heat = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0, 2.0, 3.0, 5.0]])
    assert mass(heat, 0.8).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert mass(heat, 1.0).tolist() == [[True, True, True, False], [False, True, True, True]]
    assert not mass(torch.zeros(1, 3), 1.0).any()
    assert mass(heat, 0.81).sum(1).tolist() == [3, 3]


def test_with_all_that_fires_open_it_is_the_network():
    model, x = small(), torch.randn(4, 3, 16, 16)
    gated = Ftwt()(model).eval()
    gated.oracle = 1.0
    assert torch.allclose(gated(x), model(x), atol=1e-6)
    gated.oracle = None
    assert torch.equal(gated(x), model(x))  # gates begin open
    assert all(len(m._forward_hooks) == 0 for m in model.modules())


def test_layers_that_are_named_have_their_norms_too_and_plain_ones_stay_as_they_are():
    model, x = small(), torch.randn(4, 3, 16, 16)
    named = Ftwt()(model, ["layer2.0.conv1"]).eval()
    assert named.after == {"layer2.0.conv1": "layer2.0.bn1"}
    plain = Gated(model, {"layer2.0.conv1": ""}).eval()  # what follows is a norm, so that less than zero is not nothing
    assert torch.equal(plain(x), model(x))
    assert plain.heat["layer2.0.conv1"].min() > 0
    torch.manual_seed(0)
    vgg = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()).eval()
    gated = Ftwt()(vgg, ["0", "2"]).eval()
    assert torch.equal(gated(x), vgg(x))


def test_a_copy_is_made_without_what_was_said_of_the_last_batch():
    gated, x = Ftwt()(small()).train(), torch.randn(4, 3, 16, 16)
    gated(x)
    twin = copy.deepcopy(gated).eval()  # as a run that is forked does
    assert not twin.logits
    assert gated.logits
    assert torch.equal(twin(x), gated.eval()(x))


def test_predictors_do_not_touch_the_backbone():
    """Catalogue: in the decoupled mode the gradients of the backbone do not depend on the predictors' loss: they are 0."""
    gated = Ftwt(part=0.5)(small()).train()
    gated(torch.randn(4, 3, 16, 16))
    fired(gated, 0.5).backward()
    assert all(p.grad is None or not p.grad.any() for p in gated.model.parameters())
    assert all(p.grad is not None and p.grad.any() for p in gated.gates.parameters())
    with pytest.raises(ResproutError, match="gates"):
        Ftwt().loss()(Run(small(), digits()), small(), None)


def test_the_estimate_before_training_is_what_oracle_masks_cost():
    """Catalogue; and by hand: a block's two convolutions cost the part of the first one's filters that is open."""
    model, x = small(), torch.randn(6, 3, 16, 16)
    _, read_by = inner(model)
    gated = Ftwt()(model).eval()
    gated.oracle = 0.6
    cost, whole = multiply_adds(gated, x, read_by)
    by_hand = torch.full((6,), float(whole), dtype=torch.float64)
    at = {"layer1.0": 256, "layer2.0": 64, "layer3.0": 16}  # output pixels
    for name, pixels in at.items():
        block = model.get_submodule(name)
        closed = 1 - gated.open[f"{name}.conv1"].double().mean(1)
        by_hand -= closed * pixels * (block.conv1.weight.numel() + block.conv2.weight.numel())
    assert torch.allclose(cost, by_hand)
    assert estimate(gated, [x[:3], x[3:]], read_by, 0.6) == pytest.approx(float(cost.mean()) / whole)
    program = rs.lower(model, x[:1]).program
    assert whole == sum(each * math.prod(program.needs()[n]) for n, each in program.macs().items())
    assert estimate(gated, [x], read_by, 0.3) < estimate(gated, [x], read_by, 0.9) < 1


def test_only_convolutions_have_gates():
    with pytest.raises(ResproutError, match="no convolution"):
        Gated(small(), {"linear": ""})
    with pytest.raises(ResproutError, match="conv1"):
        Ftwt()(nn.Linear(3, 3))
    with pytest.raises(ResproutError, match="after"):
        Gated(small(), {"layer1.0.conv1": "layer1.0.norm"})
    for wrong in ({"part": 1.5}, {"part": float("nan")}, {"part": 0.0}, {"weight": -1.0}):
        with pytest.raises(ResproutError, match="part"):
            Ftwt(**wrong).loss()


def test_training_teaches_the_predictors_what_fires():
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ResNet(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.expand(-1, 3, -1, -1))

    torch.manual_seed(0)
    task, model = digits(), Grey()
    run = Run(model, task)
    run.do(Train(60, Cosine(0.1, 0.0), Optimizer(), looks=1))
    method = Ftwt(part=0.7)
    run = Run(method(model), task)
    run.do(Train(80, Cosine(0.05, 0.0), Optimizer(), objective=method.loss(), looks=1))
    gated = run.model.eval()
    assert isinstance(gated, Gated)
    x, y = next(iter(task.batches("test")))
    with torch.no_grad():
        right = float((gated(x).argmax(1) == y).double().mean())
    hit = [(gated.open[n] == mass(gated.heat[n], 0.7)).double().mean() for n in gated.names[:1]]
    assert right > 0.8
    assert float(hit[0]) > 0.75
    cost, whole = multiply_adds(gated, x, inner(model)[1])
    assert float(cost.mean()) < 0.9 * whole
    assert float(cost.std()) > 0  # an input decides what it costs
