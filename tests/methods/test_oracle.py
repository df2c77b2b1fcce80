"""The oracle: every unit taken out, or put back, by hand."""

import copy

import pytest
import torch
from tiny_lm import chain
from torch import nn

import resprout as rs
from resprout.core.granularity import Units
from resprout.core.probe import Probe
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune, Regrow
from resprout.core.units import living
from resprout.methods.allocate.global_ import Global
from resprout.methods.fill.anchor import Anchor
from resprout.methods.remove._greedy import Trials, layers
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.oracle import Oracle
from resprout.tasks.text import Text


def test_channels_by_hand_there_and_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    batches = [(torch.randn(8, 3).double(), torch.randint(3, (8,))) for _ in range(2)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    @torch.no_grad()
    def without(*gone):
        small = copy.deepcopy(model)
        small.state_dict()["2.weight"][:, list(gone)] = 0
        return float(torch.stack([loss(small, b) for b in batches]).mean())

    groups = rs.trace(model, batches[0][0]).groups
    probe = Probe(model, data=batches, loss=loss)
    probe.groups = groups
    found = Oracle()(probe)["0.weight"]
    by_hand = torch.tensor([without(i) - without() for i in range(4)])
    torch.testing.assert_close(found, by_hand.float()[:, None].expand(4, 3).to(found.dtype))

    dense = {n: t.clone() for n, t in model.state_dict().items()}
    dead = rs.Masks({"0.weight": torch.ones(4, 3).bool(), "2.weight": torch.ones(3, 4).bool()})
    dead["0.weight"][[0, 2]], dead["2.weight"][:, [0, 2]] = False, False
    cut = copy.deepcopy(model)
    for name, w in cut.named_parameters():
        w.data *= dead.get(name, torch.ones(()))
    probe = Probe(cut, dead, batches, loss, dense)
    probe.groups = groups
    found = Oracle()(probe)["0.weight"][:, 0]
    now = without(0, 2)
    expected = [now - without(2), without(0, 1, 2) - now, now - without(0), without(0, 2, 3) - now]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_without_groups_a_unit_is_a_row():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batches = [torch.randn(8, 3)]
    found = Oracle()(Probe(model, data=batches, loss=lambda m, x: m(x).square().mean()))["weight"]
    row = model.weight.detach()[1]
    with torch.no_grad():
        y = (batches[0] @ row + model.bias[1]).square().mean() / 2
        expected = float(model.bias[1].square() / 2 - y)
    assert found[1].tolist() == pytest.approx([expected] * 3, abs=1e-6)


def test_of_a_language_models_layers_the_best_come_back():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    task = Text(chain(32, 2000, 1), chain(32, 600, 2), chain(32, 300, 3), window=16, batch_size=16)
    groups = rs.trace(model, task.train[None, :16], layers=True).groups
    run = Run(model, task, granularity=Units("layer"), groups=groups, probe_batches=2)
    run.do(Mark("dense"))
    trials, units = Trials(run), layers(run)
    whole = sum(float(run.probe().loss(b)) for b in run.probe().data()) / 2
    expected = torch.tensor(trials(units)) - whole
    score = Oracle()(run.probe())
    for unit, worth in zip(units, expected, strict=True):
        own = next(g for g in groups if g.name == unit.name).slots
        slot = next(s.parameter for s in own if s.parameter in score)
        assert float(score[slot].flatten()[0]) == pytest.approx(float(worth), abs=1e-4)

    run.do(Prune(1.0, Magnitude(), Global()))  # nothing is left
    alone = []
    for unit in units:
        other = copy.deepcopy(model)
        names = {s.parameter for s in next(g for g in groups if g.name == unit.name).slots}
        other.load_state_dict({n: run.points["dense"][n] if n in names else t for n, t in model.state_dict().items()})
        alone.append(sum(float(other(b, labels=b).loss) for b in run.probe().data()) / 2)
    run.do(Regrow(5 / 6, Oracle(), Global(), Anchor()))
    back = [n for n, a in living([g for g in groups if g.kind == "layer"], run.masks).items() if bool(a)]
    assert back == [units[alone.index(min(alone))].name]
