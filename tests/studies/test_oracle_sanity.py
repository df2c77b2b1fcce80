"""Oracle sanity: tau against an explicit loop over pairs, subsets by counting, and a whole small study."""

import json
import math
import os
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from resprout import find
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.graph.shrink import shrink
from resprout.graph.trace import trace
from resprout.methods.score.filter_norm import FilterNorm
from resprout.methods.score.magnitude import Magnitude
from resprout.models import build
from resprout.studies.oracle_sanity import (
    ORACLE,
    OracleSanity,
    agreement,
    channels,
    foretold,
    interval,
    kendall,
    staying,
    subsets,
    sum_of,
    training_loss,
    worth,
)

TINY = OracleSanity(
    cases=(("lenet5_mini", 1),), subsets=5, scores=("filter_norm", "random"), dense_epochs=1, epochs=0.2, seeds=2
)


def pairs(x, y) -> float:
    """Tau-b, from its definition."""
    score, x_ties, y_ties, n = 0, 0, 0, 0
    for i, j in combinations(range(len(x)), 2):
        a, b = x[i] - x[j], y[i] - y[j]
        score += (a * b > 0) - (a * b < 0)
        x_ties, y_ties, n = x_ties + (a == 0), y_ties + (b == 0), n + 1
    return score / math.sqrt((n - x_ties) * (n - y_ties))


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_that_of_a_loop_over_pairs(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(25, generator=g).tolist()
    y = (torch.tensor(x) * 2 + torch.randn(25, generator=g)).round().tolist()  # with ties
    assert kendall(x, y)[0] == pytest.approx(pairs(x, y))


def test_tau_by_hand():
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4])[0] == pytest.approx(4 / 6)  # one of six pairs is the wrong way round
    assert kendall([1, 2, 3], [3, 2, 1])[0] == -1
    assert kendall([1, 2, 3], [5, 5, 5]) == (0.0, 1.0)


def test_few_subsets_are_enumerated_and_many_sampled():
    all_of_them = subsets([6], 0.5, 20, seed=0)
    assert len(set(all_of_them)) == 20 == math.comb(6, 3)
    assert set(all_of_them) == {(c,) for c in combinations(range(6), 3)}
    some = subsets([6], 0.5, 19, seed=0)
    assert len(set(some)) == 19
    both = subsets([6, 16], 0.25, 30, seed=1)
    assert len(set(both)) == 30
    assert all(len(a) == 4 and len(b) == 12 for a, b in both)
    assert both == subsets([6, 16], 0.25, 30, seed=1) != subsets([6, 16], 0.25, 30, seed=2)
    assert [len(a) for (a,) in subsets([2], 1.0, 30, seed=0)] == [1, 1]  # one stays


def lenet() -> tuple[nn.Module, list, torch.Tensor]:
    torch.manual_seed(0)
    model, example = build("lenet5_mini").eval(), torch.randn(2, 1, 8, 8)
    return model, channels(model, trace(model, example), 0), example


def test_what_stays_stays():
    model, groups, example = lenet()
    assert [len(g) for g in groups] == [6, 16, 84]
    masks = staying(model, groups[:1], ((0, 2, 5),))
    assert masks["0.weight"].flatten(1).all(1).tolist() == [True, False, True, False, False, True]
    assert torch.equal(masks["3.weight"].all(0).all(1).all(1), masks["0.weight"].flatten(1).all(1))
    small = shrink(model, masks, structure=trace(model, example))
    assert small[0].weight.shape[0] == 3
    with torch.no_grad():
        model[0].weight[[1, 3, 4]] = 0
        model[0].bias[[1, 3, 4]] = 0
        assert torch.allclose(small(example), model(example), atol=1e-6)


def test_a_score_sums_what_stays():
    model, groups, _ = lenet()
    task = find.task("digits", None, "")
    masks = staying(model, groups[:1], ((0, 2, 5),))
    norms = model[0].weight.detach().abs().flatten(1).sum(1)
    found = worth(model, task, FilterNorm(), groups, 0)
    assert float(found["0.weight"][masks["0.weight"]].sum()) == pytest.approx(
        float(norms[[0, 2, 5]].sum() / norms.sum()), rel=1e-5
    )
    assert sum_of(found, Masks.dense(model)) == pytest.approx(len(masks))  # of each layer all
    order = worth(model, task, Magnitude(), groups, 0)
    sums = [sum_of(order, staying(model, groups[:1], s)) for s in subsets([6], 0.5, 20, 0)]
    assert max(sums) > min(sums)


def test_training_loss_is_the_same_for_the_same():
    model, _, _ = lenet()
    task = find.task("digits", None, "")
    assert training_loss(model, task, 99) == training_loss(model, task, 17) == pytest.approx(math.log(10), abs=0.1)


def runs(oracle, ends):
    return [{ORACLE: a, "x": -a, "test_loss": b, "test": 1 - b} for a, b in zip(oracle, ends, strict=True)]


def test_signs_and_ranks():
    right, wrong = runs([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]), runs([1, 2, 3, 4], [0.4, 0.3, 0.2, 0.1])
    assert foretold(right, ORACLE)["tau with loss"] == foretold(right, "x")["tau with accuracy"] == 1
    assert foretold(right, ORACLE)["rank"] == 1
    assert foretold(wrong, ORACLE)["tau with loss"] == foretold(wrong, ORACLE)["spearman"] == -1
    assert foretold(wrong, ORACLE)["rank"] == 4
    assert agreement([{"first loss": a, "other losses": b} for a, b in ((1, 2), (2, 3), (3, 9))]) == 1


def test_the_interval_stays_in_bounds():
    found = interval([0.9, 1.0, 0.2])
    assert -1 <= found.low < found.mean < found.high <= 1


def test_it_runs_goes_on_and_says_what_its_tables_hold(tmp_path, monkeypatch):
    shares: list[float] = []
    found = TINY(tmp_path, lambda what, share: shares.append(share))
    assert all(a <= b for a, b in pairwise(shares))
    assert len(found.tables["Subsets"]) == 2 * 5
    json.dumps(found.tables, allow_nan=False)
    top = found.tables["Criteria"][0]
    taus = [r["tau with loss"] for r in found.tables["Pruned loss and the end"]]
    assert top["criterion"] == ORACLE
    assert top["tau with loss"] == pytest.approx(sum(taus) / 2)
    rows = [r for r in found.tables["Subsets"] if r["seed"] == 0]
    assert taus[0] == pytest.approx(pairs([r[ORACLE] for r in rows], [r["test_loss"] for r in rows]))
    assert f"{top['tau with loss']:+.2f}" in found.verdict
    monkeypatch.setattr(OracleSanity, "_retrained", None)  # nothing is retrained again
    again = TINY(tmp_path)
    assert (again.verdict, again.tables) == (found.verdict, found.tables)


@pytest.mark.parametrize(
    ("study", "what"),
    [
        (OracleSanity(subsets=4), "subsets at least 5"),
        (OracleSanity(cases=()), "cases"),
        (OracleSanity(weights=("a",)), "one file for each of the 2"),
        (OracleSanity(ratio=50), "ratio"),
        (OracleSanity(scores=("magnitud",), cases=(("lenet5_mini", 1),), dense_epochs=0.1), "magnitude"),
    ],
)
def test_bad_settings_are_named(study, what, tmp_path):
    with pytest.raises(ResproutError, match=what):
        study(tmp_path)


MNIST = """
import gzip
from pathlib import Path

import torch
from resprout.tasks.arrays import Arrays

def mnist(data):
    def read(name, head):
        raw = gzip.open(Path(data) / name).read()[head:]
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    x, y = read("train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)[:6000], read("train-labels-idx1-ubyte.gz", 8)[:6000].long()
    tx, ty = read("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28), read("t10k-labels-idx1-ubyte.gz", 8).long()
    return Arrays((x[:5000], y[:5000]), (x[5000:], y[5000:]), (tx, ty), (0.13,), (0.31,), name="mnist-5000")
"""


@pytest.mark.slow
def test_on_mnist_the_oracle_is_one(tmp_path, data_dir: Path):
    """The catalogue's check: LeNet5-mini, half of the first layer's six filters, all twenty ways."""
    (tmp_path / "mnist.py").write_text(MNIST)
    study = OracleSanity(
        task=f"{tmp_path / 'mnist.py'}:mnist", data=str(data_dir / "mnist"), cases=(("lenet5_mini", 1),), dense_epochs=10,
        epochs=3,
    )  # fmt: skip
    oracle = study(tmp_path).tables["Criteria"][0]
    assert oracle["tau with loss"] > 0.4


@pytest.mark.slow
@pytest.mark.skipif(
    "RESPROUT_HOURS" not in os.environ, reason="takes hours on a processor; set RESPROUT_HOURS to run it"
)
def test_on_cifar_it_is_none(tmp_path, data_dir: Path):
    """The catalogue's check: ResNet-20, thirty combinations."""
    weights = str(data_dir / "cifar10-resnet" / "resnet20.safetensors")
    study = OracleSanity(
        task="cifar10", data=str(data_dir / "cifar10"), cases=(("resnet20", 0),), weights=(weights,), epochs=1, seeds=1,
        repeats=1,
    )  # fmt: skip
    assert abs(study(tmp_path).tables["Criteria"][0]["tau with loss"]) < 0.3
