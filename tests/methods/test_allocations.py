"""Allocations against hand calculations and an independent implementation."""

import json

import pytest
import torch

from resprout.core.errors import ResproutError
from resprout.core.granularity import Weight
from resprout.core.kinds import Scores
from resprout.core.masks import Masks, keep_count
from resprout.core.probe import Probe
from resprout.methods.allocate._blocks import blocks
from resprout.methods.allocate.damage_greedy import DamageGreedy
from resprout.methods.allocate.damage_proportional import DamageProportional
from resprout.methods.allocate.dlp import Dlp
from resprout.methods.allocate.er import Er
from resprout.methods.allocate.erk import Erk
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.lamp import Lamp, lamp
from resprout.methods.allocate.owl import Owl
from resprout.methods.allocate.table import Table
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.allocate.uniform_plus import UniformPlus
from resprout.methods.score.magnitude import Magnitude
from resprout.models import build


def scores(**shapes):
    g = torch.Generator().manual_seed(0)
    return Scores({n: torch.rand(s, generator=g) for n, s in shapes.items()})


def counts(allocation, given, keep):
    return Weight().choose(given, keep, allocation).counts


def test_lamp_golden():
    """The paper's form on [3, 1, 2]: 1, 1/14 and 4/13, here from the largest down."""
    assert lamp(torch.tensor([3.0, 1.0, 2.0])).tolist() == pytest.approx([1, 4 / 13, 1 / 14])


def test_lamp_is_blind_to_a_layers_scale():
    given = Scores({"a": torch.tensor([1.0, 2, 3]), "b": torch.tensor([10.0, 20, 30])})
    assert counts(Lamp(), given, 4) == {"a": 2, "b": 2}
    assert counts(Lamp(), given, 2) == {"a": 1, "b": 1}
    assert counts(Global(), given, 3) == {"a": 0, "b": 3}


def test_lamp_of_zeros():
    given = Scores({"a": torch.zeros(4), "b": torch.tensor([1.0, 2, 3, -1])})
    assert counts(Lamp(), given, 3) == {"a": 0, "b": 3}


def test_erdos_renyi_by_hand():
    given = scores(a=(8, 4, 3, 3), b=(10, 20))
    assert counts(Er(), given, 138) == {"a": 108, "b": 30}  # 12 * 9 : 30
    assert counts(Erk(), given, 48) == {"a": 18, "b": 30}  # 8 + 4 + 3 + 3 : 10 + 20
    assert counts(Erk(), given, 400) == {"a": 200, "b": 200}  # claims beyond a tensor's size go to the others


def test_uniform_plus_by_hand():
    given = scores(first=(4, 5, 5), middle=(1000, 1), last=(10, 10))
    assert counts(UniformPlus(), given, 220) == {"first": 100, "middle": 100, "last": 20}
    assert counts(UniformPlus(), given, 650) == {"first": 100, "middle": 500, "last": 50}
    with pytest.raises(ResproutError, match="first and last"):
        counts(UniformPlus(), given, 110)


def test_uniform_plus_without_convolutions():
    assert counts(UniformPlus(), scores(a=(1000, 1), b=(10, 10)), 70) == {"a": 50, "b": 20}


def test_table():
    given = scores(a=(100, 1), b=(50, 1), c=(50, 1))
    assert counts(Table({"a": 0.1}), given, 30) == {"a": 10, "b": 10, "c": 10}
    assert counts(Table({"a": 0.1, "b": 0.2, "c": 0.4}), given, 40) == {"a": 10, "b": 10, "c": 20}
    with pytest.raises(ResproutError, match="unknown weight"):
        counts(Table({"d": 0.1}), given, 30)


def regrowth():
    """A network with 10 of 100, 20 of 60 and 0 of 40 alive."""
    given = scores(a=(100,), b=(60,), c=(40,))
    alive = Masks({n: torch.arange(s) < k for n, s, k in (("a", 100, 10), ("b", 60, 20), ("c", 40, 0))})
    return Scores(given.tensors, ~alive, alive)


def test_damage_proportional_by_hand():
    """Claims: 0.2 * 90 = 18, 0.9 * 40 = 36, none."""
    damage = DamageProportional({"a": 0.8, "b": 0.1})
    assert counts(damage, regrowth(), 30 + 27) == {"a": 19, "b": 38, "c": 0}
    assert counts(damage, regrowth(), 30 + 80) == {"a": 50, "b": 60, "c": 0}
    assert counts(damage, regrowth(), 30 + 130 + 10) == {"a": 100, "b": 60, "c": 10}


def test_damage_greedy_by_hand():
    damage = DamageGreedy({"a": 0.8, "b": -0.1})
    assert counts(damage, regrowth(), 30 + 27) == {"a": 10, "b": 47, "c": 0}
    assert counts(damage, regrowth(), 30 + 50) == {"a": 20, "b": 60, "c": 0}
    assert counts(damage, regrowth(), 30 + 140) == {"a": 100, "b": 60, "c": 10}


@pytest.mark.data
def test_an_independent_implementation(data_dir, oracles_dir):
    """LAMP and global to the weight; the others round each layer by itself, so a layer may differ by one."""
    from safetensors.torch import load_file

    oracle = json.loads((oracles_dir / "allocation.json").read_text())
    model = build("resnet20")
    model.load_state_dict(load_file(data_dir / "cifar10-resnet" / "resnet20.safetensors"))
    given = Scores(Magnitude()(Probe(model)))
    assert sum(given.sizes.values()) == sum(oracle["total"].values())
    methods = {"lamp": Lamp(), "glob": Global(), "unif": Uniform(), "unifplus": UniformPlus(), "erk": Erk()}
    for name, sparsities in oracle["kept"].items():
        for sparsity, kept in sparsities.items():
            ours = counts(methods[name], given, keep_count(float(sparsity), 268_336))
            off = max(abs(ours[f"{layer}.weight"] - k) for layer, k in kept.items())
            assert off <= (0 if name in ("lamp", "glob") else 1), (name, sparsity)


def test_blocks_go_by_the_first_number():
    names = [
        "model.layers.0.q.weight",
        "model.layers.0.mlp.1.weight",
        "model.layers.10.q.weight",
        "0.weight",
        "head.weight",
    ]
    assert list(blocks(names)) == ["model.layers.0", "model.layers.10", "0", "head.weight"]
    assert blocks(names)["model.layers.0"] == names[:2]


def test_owl_by_hand():
    """Of ten scores one is 5 times their mean in block 0, none in block 1: densities 0.5 + 0.08 and 0.5 - 0.08."""
    given = {"h.0.w": torch.tensor([[1.0] * 9 + [100.0]]), "h.1.w": torch.ones(1, 10)}
    found = Owl()(Scores(given), dict.fromkeys(given, 1.0), 10.0)
    assert found == {"h.0.w": pytest.approx(5.8), "h.1.w": pytest.approx(4.2)}


@pytest.mark.parametrize("stat", ["median", "mean", "max", "sum", "std"])
def test_dlp_identities(stat):
    """The densities' mean is what is allowed, and they differ by 2 alpha; a larger block of scores is cut more."""
    given = {f"h.{i}.w": torch.rand(20, 30, generator=torch.Generator().manual_seed(i)) * (1 + i) for i in range(4)}
    found = Dlp(stat=stat)(Scores(given), dict.fromkeys(given, 1.0), 0.4 * 2400)  # pyright: ignore[reportArgumentType]
    densities = [k / 600 for k in found.values()]
    assert sum(densities) / 4 == pytest.approx(0.4, abs=1e-6)
    assert max(densities) - min(densities) == pytest.approx(0.3, abs=1e-6)
    assert densities == sorted(densities, reverse=True)


def test_dlp_says_which_statistics_there_are():
    with pytest.raises(ResproutError, match="median"):
        Dlp(stat="mode")  # pyright: ignore[reportArgumentType]
