"""Settings that are none, and units that a recipe would break up, are refused by name before anything is trained."""

import copy

import pytest
import torch
from sign_task import perceptron, start
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.granularity import Block, Row
from resprout.core.run import Run
from resprout.core.train import Train
from resprout.methods.gate.hard_concrete import HardConcrete
from resprout.methods.gate.transport import Transport
from resprout.methods.objective.mart import Mart
from resprout.methods.recipe.granet import Granet
from resprout.methods.recipe.gsm import Gsm
from resprout.methods.recipe.learned_mask import LearnedMask
from resprout.methods.recipe.lobster import Lobster
from resprout.methods.recipe.rd_prune import RdPrune
from resprout.methods.recipe.robust_pai import RobustPai
from resprout.methods.rule.admm import Admm
from resprout.methods.rule.gradual import Gradual
from resprout.methods.rule.neuroregeneration import Neuroregeneration
from resprout.methods.rule.rigl import RigL
from resprout.methods.rule.swa import Swa
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic
from resprout.tasks.digits import digits

WAY, NAN = Cubic(0.0, 0.9), float("nan")


@pytest.mark.parametrize("granularity", [Row(), Block(2, 2)], ids=repr)
@pytest.mark.parametrize("recipe", [Granet(), Gsm(), Lobster(), RdPrune()], ids=lambda r: type(r).__name__)
def test_what_moves_single_weights_refuses_larger_units(recipe, granularity):
    run = start(perceptron(10), granularity=granularity)
    with pytest.raises(ResproutError, match="granularity='weight'"):
        recipe(run, [rs.Sparsity(0.5)])
    assert run.trained == 0


def test_a_swap_refuses_larger_units():
    run = start(perceptron(10), granularity=Row())
    with pytest.raises(ResproutError, match="granularity='weight'"):
        run.do(Train(4, Constant(0.1), rule=RigL(every=2)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gradual(WAY, every=0), "every"),
        (lambda: Gradual(WAY, until=1.2), "until"),
        (lambda: Gradual(WAY, since=NAN), "since"),
        (lambda: Neuroregeneration(WAY, every=0), "every"),
        (lambda: Neuroregeneration(WAY, last=2.0), "last"),
        (lambda: Admm(5, rho=0.0), "rho"),
        (lambda: Admm(5, every=0), "every"),
        (lambda: Admm(5, until=NAN), "until"),
        (lambda: Swa(every=0), "every"),
        (lambda: Swa(share=NAN), "share"),
        (lambda: HardConcrete(low=0.1), "low"),
        (lambda: HardConcrete(temperature=0.0), "temperature"),
        (lambda: Transport(eps=0.0), "eps"),
        (lambda: RobustPai(bias=NAN), "bias"),
        (lambda: LearnedMask(begin=0.7, end=0.1), "begin"),
        (lambda: LearnedMask(rest=1.0), "rest"),
        (lambda: Lobster(strength=1.5), "strength"),
        (lambda: Lobster(tolerance=NAN), "tolerance"),
        (lambda: Lobster(patience=0), "patience"),
    ],
)
def test_settings_that_are_none_are_named(make, says):
    with pytest.raises(ResproutError, match=says):
        make()


@pytest.mark.filterwarnings("ignore::resprout.core.errors.LayerDied")
def test_a_short_training_still_learns_before_it_rests():
    run = start(perceptron(10))
    LearnedMask(epochs=0.3, rest=0.9)(run, [rs.Sparsity(0.5)])
    assert run.masks.sparsity == 0.5


def test_an_attack_in_training_leaves_frozen_norms_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10)).train()
    model[1].eval()
    run, before = Run(model, digits()), copy.deepcopy(model[1].state_dict())
    Mart(steps=1)(run, model, next(iter(run.task.batches("train")))).backward()
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(t, before[n]) for n, t in model[1].state_dict().items())
