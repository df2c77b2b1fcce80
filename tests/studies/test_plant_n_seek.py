"""Tickets compute what they should, planting hides them without a trace in what they compute, and an oracle finds them."""

import dataclasses
import math

import pytest
import torch

from resprout.core.errors import ResproutError
from resprout.core.granularity import Weight
from resprout.core.kinds import Scores
from resprout.core.masks import Masks
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.gmp import Gmp
from resprout.methods.recipe.granet import Granet
from resprout.methods.recipe.imp_rewind import ImpRewind
from resprout.methods.recipe.lth_imp import LthImp
from resprout.methods.recipe.mia_prune import MiaPrune
from resprout.studies._tickets import RANGES, TICKETS, circle, helix, passed, piecewise, plant, rescaled, task_of
from resprout.studies.plant_n_seek import PlantNSeek, with_adamw


def grid(name: str, count: int = 500) -> torch.Tensor:
    low, high = RANGES[name]
    inputs = 2 if name == "circle" else 1
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(0)).double() * (high - low) + low


@pytest.mark.parametrize("name", TICKETS)
@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("relative", [True, False])
def test_the_planted_ticket_alone_computes_its_target(name, depth, relative):
    """Catalogue: to 1e-6 after the outputs are rescaled and before any training; less than 1 % of the weights are changed."""
    ticket = TICKETS[name](depth)
    hidden = plant(ticket, 100, seed=3, relative=relative)
    assert hidden.masks.alive == ticket.edges  # the ticket's edges are those of the design
    assert hidden.masks.density < 0.01 or depth == 3
    x, network = grid(name), hidden.network.double()
    with torch.no_grad():
        for n, w in network.named_parameters():
            if n in hidden.masks:
                w *= hidden.masks[n]
        said = network(x) * hidden.scale
        assert torch.allclose(said, ticket(x), atol=1e-6, rtol=1e-6)
        assert torch.allclose(rescaled(network, hidden.scale[0])(x), ticket(x), atol=1e-6, rtol=1e-6)


def test_planting_leaves_the_rest_as_it_was():
    hidden, other = plant(helix(), 100, 0), plant(TICKETS["relu"](), 100, 0)
    a, b = (p.network[2].weight[~(hidden.masks["2.weight"] | other.masks["2.weight"])] for p in (hidden, other))
    assert torch.equal(a, b)


def test_edges_of_the_designs():
    assert [TICKETS["relu"](d).edges for d in (3, 4, 5)] == [3, 4, 5]
    assert circle(3, units=10).edges == 2 * 10 + 2 * 10 + 4
    assert helix(4, units=30).edges == 30 + 2 * 30 + 1 + 3 + 3  # the third coordinate is straight


def test_a_piecewise_block_is_exact_at_its_knots_and_linear_between():
    first, second = piecewise(lambda x: x[:, None] ** 3, -1.0, 2.0, 6)
    knots = torch.linspace(-1, 2, 7).double()
    x = torch.cat([knots, (knots[1:] + knots[:-1]) / 2])[:, None]
    said = torch.relu(x @ first[0].T + first[1]) @ second[0].T + second[1]
    middle = (knots[1:] ** 3 + knots[:-1] ** 3) / 2
    assert torch.allclose(said[:, 0], torch.cat([knots**3, middle]), atol=1e-9)
    deep = passed(second, 3)
    assert len(deep) == 3


def test_the_helix_winds_and_the_circle_has_four_rings():
    x = torch.linspace(0, 1, 200)[:, None].double()
    angle = 5 * math.pi + 3 * math.pi * x[:, 0]
    truth = torch.stack([angle * angle.cos(), angle * angle.sin(), angle], 1) / (8 * math.pi)
    assert float((helix()(x) - truth).abs().max()) < 0.02
    r = torch.tensor([0.3, 0.6, 0.8, 1.0]).double()
    rings = torch.stack([r * math.cos(1.0), r * math.sin(1.0)], 1)
    assert circle()(rings).argmax(1).tolist() == [0, 1, 2, 3]


def test_an_oracle_finds_all_and_chance_its_density():
    hidden = plant(helix(), 100, 0)
    oracle = Scores({n: m.float() for n, m in hidden.masks.items()})
    found = Weight().choose(oracle, hidden.masks.alive, Global())
    assert found == hidden.masks
    g = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(40):
        blind = Scores({n: torch.rand(m.shape, generator=g) for n, m in hidden.masks.items()})
        masks: Masks = Weight().choose(blind, hidden.masks.total // 10, Global())
        hits.append((masks & hidden.masks).alive / hidden.masks.alive)
    assert sum(hits) / 40 == pytest.approx(0.1, abs=0.02)


def test_the_study_asks_everyone_and_goes_on_where_it_was(tmp_path):
    study = PlantNSeek(
        targets=("relu",), width=20, depth=3, levels=(1.0, 5.0), scores=("magnitude", "snip", "synflow", "flap"),
        recipes=("gmp",), rounds=3, steps=20, samples=256,
    )  # fmt: skip
    found = study(tmp_path)
    rows = found.tables["all"]
    own = rows[0]
    assert own["found"] == 100
    assert own["before training"] == pytest.approx(1.0, abs=1e-6)
    assert own["worth"] > 0.9
    assert {(r["method"], r["way"]) for r in rows[1:] if r["found"] is not None} >= {
        ("snip", "at initialisation"), ("synflow", "in rounds"), ("magnitude", "after training"), ("gmp", "recipe"),
    }  # fmt: skip
    assert {r["weights"] for r in rows[1:] if r["found"] is not None} == {3, 15}
    assert "ways to prune keep half" in found.verdict
    assert study(tmp_path).tables == found.tables
    assert task_of("relu", TICKETS["relu"](3), 64, 0).metric == "fit"


@pytest.mark.parametrize("recipe", [LthImp(), Gmp(), Granet(), ImpRewind(), MiaPrune()], ids=lambda r: type(r).__name__)
def test_recipes_train_as_all_others_do_however_deep_they_keep_it(recipe):
    """By SGD at 0.1 the loss of a regression is soon infinite, and what fails has sought nothing."""
    ours = with_adamw(recipe, 1e-3)
    assert "sgd" not in repr(ours)
    assert "start=0.1" not in repr(ours)
    assert "lr=0.1" not in repr(ours)
    assert dataclasses.replace(ours, epochs=recipe.epochs + 1) == with_adamw(
        dataclasses.replace(recipe, epochs=recipe.epochs + 1), 1e-3
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PlantNSeek(targets=("spiral",)), "targets"),
        (lambda: PlantNSeek(levels=(0.5,)), "levels"),
        (lambda: PlantNSeek(rounds=0), "rounds"),
    ],
)
def test_settings_that_are_none_are_named(make, says):
    with pytest.raises(ResproutError, match=says):
        make()
